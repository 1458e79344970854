"""The program and the packages of the guides (a tool, a backend, a detector, a tool server), installed and run.

They are installed in a new virtual environment, the program as a wheel is: nothing of the checkout is on its path. Only
what the program depends on is borrowed from the current environment, because it takes minutes to install.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "docs/guides/add-a-tool.md": "meshcritic_stature.py",
    "docs/guides/add-a-backend.md": "one_metric.py",
    "docs/guides/add-a-detector.md": "stick_detector.py",
}
SERVER_PAGE = "docs/guides/mcp.md"
PROGRAM = ("agent", "cli", "common", "configs", "eval", "hmr", "memory", "meshcritic", "rl")
MAX_LINES = 40


def package(page: str) -> dict[str, str]:
    """The files of a page's package."""
    blocks = re.findall(r"^```(python|toml)\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    return {PAGES[page] if kind == "python" else "pyproject.toml": text for kind, text in blocks}


@pytest.mark.parametrize("page", PAGES)
def test_a_package_is_short_and_imports_from_the_public_api_only(page):
    files = package(page)
    assert set(files) == {PAGES[page], "pyproject.toml"}
    assert sum(len(text.splitlines()) for text in files.values()) < MAX_LINES
    for internal in set(PROGRAM) - {"meshcritic"}:
        assert not re.search(rf"^\s*(from|import) {internal}\b", files[PAGES[page]], re.M)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment in which the packages are installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, system_site_packages=True, with_pip=False)
    interpreter = folder / "bin" / "python"
    # a path alone: files such as those of editable packages, which lead to the checkout, have no effect there
    (site_packages(interpreter) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    program = tmp_path_factory.mktemp("program")
    for name in PROGRAM:
        shutil.copytree(ROOT / name, program / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, program)
    sources = [program]
    for page in PAGES:
        sources.append(tmp_path_factory.mktemp("package"))
        for name, text in package(page).items():
            (sources[-1] / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-deps"]
    run([*pip, "--no-build-isolation", "--no-index", "--quiet", *map(str, sources)])
    return interpreter


def site_packages(interpreter: Path) -> Path:
    base = str(interpreter.parents[1])
    return Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))


def run(command: list[str], **options) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_file_of_the_program_is_installed(python, tmp_path):
    installed = site_packages(python)
    files = {
        path.relative_to(ROOT) for name in PROGRAM for path in (ROOT / name).rglob("*") if path.is_file()
    }
    wanted = {path for path in files if "__pycache__" not in path.parts and path.name != ".gitignore"}
    assert {path for path in wanted if not (installed / path).is_file()} == set()
    code = "import meshcritic, agent, sys; print(meshcritic.__file__, agent.__file__, *sys.path, sep='\\n')"
    first, second, *path = run([str(python), "-c", code], cwd=tmp_path).splitlines()
    assert all(module.startswith(str(installed)) for module in (first, second))
    assert str(ROOT) not in path


@pytest.mark.slow
def test_an_installed_backend_scores(python, tmp_path):
    command = [
        str(python),
        "-m",
        "meshcritic",
        "check-vlm",
        "one-metric:reprojection_percent_of_box",
        "--scenes",
        "2",
        "--json",
    ]
    found = json.loads(run(command, cwd=tmp_path))
    assert found["backend"] == "one-metric:reprojection_percent_of_box"
    assert found["judged"] == 2
    assert found["below_truth"]["off_image"] == 2  # half an image away is what a reprojection cannot miss


@pytest.mark.slow
def test_an_installed_tool_measures(python, tmp_path):
    out = tmp_path / "check"
    run([str(python), "-m", "meshcritic", "check-vlm", "--scenes", "1", "--out", str(out)], cwd=tmp_path)
    assert "stature_off_mm" in (out / "trace.jsonl").read_text()


@pytest.mark.slow
def test_an_installed_tool_changes_scores_by_a_rule(python, tmp_path):
    """Three equal bodies, of which one is a giant."""
    Image.new("RGB", (90, 120)).save(tmp_path / "photo.png")
    betas = np.zeros((3, 10))
    betas[2, 0] = 9.0
    np.savez(
        tmp_path / "h.npz",
        global_orient=np.tile([np.pi, 0.0, 0.0], (3, 1)), body_pose=np.zeros((3, 69)), betas=betas,
        transl=np.tile([0.0, 0.2, 4.0], (3, 1)), focal_px=np.array(150.0), center_px=np.array([45.0, 60.0]),
        image_size=np.array([90, 120]),
    )  # fmt: skip
    rule = ["memory", "add", "mine", "Grown people have a usual height.", "--when", "stature_off_mm > 30"]
    run([str(python), "-m", "meshcritic", *rule, "--weight", "50"], cwd=tmp_path)
    before, after = scores(python, tmp_path), scores(python, tmp_path, "--memory", "mine")
    assert after[2] < min(after[:2])
    assert after[2] < before[2]


def scores(python: Path, folder: Path, *words: str) -> list[float]:
    command = [
        str(python),
        "-m",
        "meshcritic",
        "critique",
        "photo.png",
        "--hypotheses",
        "h.npz",
        "--json",
        *words,
    ]
    (person,) = json.loads(run(command, cwd=folder))["people"]
    return person["scores"]


@pytest.mark.slow
def test_an_installed_detector_finds_people(python, tmp_path):
    Image.new("RGB", (90, 120)).save(tmp_path / "photo.png")
    command = [str(python), "-m", "meshcritic", "predict", "photo.png", "--detector", "stick:0.5", "--json"]
    (person,) = json.loads(run([*command, "--samples", "2", "--save", ""], cwd=tmp_path))["people"]
    assert person["detector"] == "stick:0.5"
    assert person["bbox"] == [22.5, 30.0, 67.5, 90.0]  # half of the photograph's sides, in its middle


@pytest.mark.slow
def test_a_tool_server_measures(python, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / SERVER_PAGE).read_text(), re.M | re.S)
    (code,) = [block for block in blocks if "MCPServer(" in block]
    (tmp_path / "my_tools.py").write_text(code)
    shutil.copy(ROOT / "tests/data/photograph/basketball.jpg", tmp_path / "photo.jpg")
    command = [str(python), "-m", "meshcritic", "critique", "photo.jpg", "--box", "185,62,320,400", "--json"]
    run([*command, "--samples", "2", "--tool-server", f"{python} my_tools.py"], cwd=tmp_path)
    records = map(json.loads, (tmp_path / "runs/critique/trace.jsonl").read_text().splitlines())
    evidence = [item for record in records for item in record["outputs"].get("evidence", [])]
    (measured,) = [item for item in evidence if item["metric"] == "served_wrist_height_mm"]
    for value, sentence in zip(measured["values"], measured["sentences"], strict=True):
        assert sentence == f"The right wrist is {value:.0f} mm off the height of the camera."


@pytest.mark.slow
def test_plugins_that_are_not_installed_are_unknown():
    from agent.tools import load_tools
    from agent.vlm import load_backend
    from hmr.detection.loading import load_detector

    assert "stature" not in {tool.name for tool in load_tools()}
    with pytest.raises(ValueError, match="no VLM backend 'one-metric'"):
        load_backend("one-metric")
    with pytest.raises(ValueError, match="no detector is called 'stick'"):
        load_detector("stick")

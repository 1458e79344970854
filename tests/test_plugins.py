"""The packages of the guides that add a tool, a backend and a detector, installed and run.

They are installed in a new virtual environment that also sees the packages of the current one.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "docs/guides/add-a-tool.md": "meshcritic_stature.py",
    "docs/guides/add-a-backend.md": "one_metric.py",
    "docs/guides/add-a-detector.md": "stick_detector.py",
}
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
    for internal in ("agent", "cli", "common", "eval", "hmr", "memory", "rl"):
        assert not re.search(rf"^\s*(from|import) {internal}\b", files[PAGES[page]], re.M)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment in which the packages are installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, system_site_packages=True, with_pip=False)
    interpreter = folder / "bin" / "python"
    ours = [sysconfig.get_path("purelib"), str(ROOT)]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(own) / "ours.pth").write_text("\n".join(lines))
    for page in PAGES:
        source = tmp_path_factory.mktemp("package")
        for name, text in package(page).items():
            (source / name).write_text(text)
        pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-deps"]
        run([*pip, "--no-build-isolation", "--no-index", "--quiet", str(source)])
    return interpreter


def run(command: list[str], **options) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
def test_an_installed_detector_finds_people(python, tmp_path):
    Image.new("RGB", (90, 120)).save(tmp_path / "photo.png")
    command = [str(python), "-m", "meshcritic", "predict", "photo.png", "--detector", "stick:0.5", "--json"]
    (person,) = json.loads(run([*command, "--samples", "2", "--save", ""], cwd=tmp_path))["people"]
    assert person["detector"] == "stick:0.5"
    assert person["bbox"] == [22.5, 30.0, 67.5, 90.0]  # half of the photograph's sides, in its middle


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

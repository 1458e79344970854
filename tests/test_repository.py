"""The house itself: where packages come from, what the front door shows, whether the docs are true."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import meshcritic

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES}


@pytest.mark.parametrize("name", ["agent", "memory", "hmr", "rl", "eval", "meshcritic"])
def test_packages_come_from_this_checkout(name: str):
    """`eval` and `memory` are common names: another package of that name must not answer for ours."""
    assert Path(str(importlib.import_module(name).__file__)).is_relative_to(ROOT)


def test_the_front_door_opens_every_name_it_lists():
    for name in meshcritic.__all__:
        assert getattr(meshcritic, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = meshcritic.no_such_name


def test_importing_the_front_door_loads_nothing_heavy():
    heavy = "torch transformers langgraph faiss sentence_transformers trl pyrender diffusers numba"
    code = f"import sys, meshcritic; print([m for m in '{heavy}'.split() if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


def test_the_readme_names_every_room_that_is_there():
    readme = (ROOT / "README.md").read_text()
    for room in ("agent", "memory", "hmr", "rl", "eval"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.name != "__init__.py":
                assert path.name in readme, f"{path.relative_to(ROOT)} is not in the README's tree"


def test_the_docs_link_to_files_that_are_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow  # an interpreter a page, each of which imports torch
@pytest.mark.parametrize(
    "page", [page for page, blocks in BLOCKS.items() if blocks], ids=lambda page: page.stem
)
def test_examples_in_the_docs_run(page: Path, tmp_path: Path):
    """A page's blocks in their order, in an empty folder, in a fresh interpreter."""
    code = "\n".join(BLOCKS[page])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, f"{page.name}:\n{run.stderr}"

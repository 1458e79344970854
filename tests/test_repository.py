"""The repository itself: where packages come from, and whether the documentation matches the tree and runs."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "cli", "common", "eval", "hmr", "memory", "meshcritic", "rl")
DOCS = ROOT / "docs"
GENERATED = {"cli.md", "api.md", "state-machines.md"}  # written by docs/site_hooks.py when the site is built
CARDS = (ROOT / "hmr/assets/policy/README.md", ROOT / "hmr/assets/studio_policy/README.md")
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", *CARDS])
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES}
ARCHITECTURE = (DOCS / "architecture.md").read_text()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def section(title: str) -> str:
    """The text of a section of the architecture page."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    return text


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_come_from_this_checkout(name: str):
    """`eval` and `memory` are common names; an installed package with such a name must not shadow ours."""
    assert Path(str(importlib.import_module(name).__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize("page", [*CARDS, DOCS / "reference/data-card.md"], ids=name_of)
def test_cards_have_the_form_of_the_hub(page: Path):
    """Metadata that the hub's own parser reads, and the sections that its templates ask for."""
    model = page in CARDS
    card = (ModelCard if model else DatasetCard)(page.read_text())
    assert card.data.to_dict()["license"] == "apache-2.0"
    headings = set(re.findall(r"^## (.*)$", card.text, re.MULTILINE))
    if model:
        asked = {
            "Model details",
            "Uses",
            "How to get started",
            "Training",
            "Evaluation",
            "Bias, risks and limitations",
        }
    else:
        asked = {"Summary", "Structure", "Creation", "Use", "Bias and limits"}
    assert asked <= headings


def test_links_lead_to_existing_files():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            is_generated = Path(target).parent.name in ("", "reference") and Path(target).name in GENERATED
            assert is_generated or (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_code_paths_in_the_docs_exist():
    packages = "|".join((*PACKAGES, "benchmarks", "configs", "docs", "tests"))
    named = {
        (name_of(page), path)
        for page in PAGES
        for path in re.findall(rf"`((?:{packages})/[\w/.-]+)", page.read_text())
    }
    assert sorted((page, path) for page, path in named if not (ROOT / path).exists()) == []


def test_pages_named_in_the_code_exist():
    folders = (*PACKAGES, "benchmarks", "configs")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".yaml")]
    named = {
        (name_of(file), page)
        for file in files
        for page in re.findall(r"docs/(?:guides|reference|results)/[\w-]+\.md", file.read_text())
    }
    assert sorted((file, page) for file, page in named if not (ROOT / page).exists()) == []


def test_the_map_names_existing_paths_and_covers_every_package():
    entries = re.findall(r"^\| `([\w/.]+)` \|", section("Map"), re.MULTILINE)
    assert [path for path in entries if not (ROOT / path).exists()] == []
    assert len(entries) == len(set(entries))
    modules = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if path.name[:2] != "__"]
    covered = set(entries)
    assert [name_of(path) for path in modules if not {name_of(path), name_of(path.parent)} & covered] == []


def test_files_named_for_typical_changes_exist():
    paths = re.findall(r"`([\w]+/[\w/.]+)`", section("Where does a change go?"))
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_docs_import_public_names_only():
    """Scripts and plug-ins import from `meshcritic`; so do the examples."""
    for page, blocks in BLOCKS.items():
        tree = ast.parse("\n".join(blocks))
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        modules += [
            name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
        ]
        internal = {module for module in modules if module.split(".")[0] in set(PACKAGES) - {"meshcritic"}}
        assert internal == set(), f"{name_of(page)} imports from {internal}"


@pytest.mark.slow  # one interpreter per page, each of which imports torch
@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks], ids=name_of)
def test_examples_in_the_docs_run(page: Path, tmp_path: Path):
    """Runs all blocks of a page in order, in a folder with a photograph, in a new interpreter of an activated
    environment."""
    shutil.copy(ROOT / "tests/data/photograph/basketball.jpg", tmp_path / "photo.jpg")
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS[page])],
        capture_output=True, text=True, cwd=tmp_path, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert run.returncode == 0, f"{name_of(page)}:\n{run.stderr}"

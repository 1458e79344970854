"""The public API: its names, how fast it imports, and the typed example that uses all of it."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import meshcritic

ROOT = Path(__file__).parents[1]


def type_checking_names() -> list[str]:
    """What the `if TYPE_CHECKING:` block of the package imports."""
    tree = ast.parse((ROOT / "meshcritic" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return [
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def test_type_checkers_and_python_see_the_same_names():
    assert sorted(type_checking_names()) == sorted(meshcritic.__all__)
    assert len(set(meshcritic.__all__)) == len(meshcritic.__all__)


def test_every_public_name_can_be_imported():
    for name in meshcritic.__all__:
        assert getattr(meshcritic, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = meshcritic.no_such_name


def test_the_typed_example_uses_every_public_name():
    """pyright checks tests/public_api.py in strict mode (`make lint`)."""
    text = (ROOT / "tests" / "public_api.py").read_text()
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert text.startswith("# pyright: strict\n")
    assert sorted(set(meshcritic.__all__) - used) == []


@pytest.mark.parametrize("package", ["agent", "cli", "common", "eval", "hmr", "memory", "meshcritic", "rl"])
def test_type_checkers_honour_the_annotations_of_every_package(package: str):
    """PEP 561: a package without py.typed counts as untyped."""
    assert (ROOT / package / "py.typed").is_file()


def test_importing_the_api_imports_no_large_library():
    large = "torch transformers langgraph faiss sentence_transformers trl pyrender diffusers numba typer"
    code = f"import sys, meshcritic; print([name for name in '{large}'.split() if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("words", ["--help", "--version", "align --help"])
def test_help_and_version_import_no_large_library(words: str):
    large = "torch transformers langgraph faiss sentence_transformers trl pyrender diffusers numba"
    code = (
        f"import sys\nfrom meshcritic import main\nsys.argv = ['meshcritic', *'{words}'.split()]\n"
        f"try: main()\nfinally: print([name for name in '{large}'.split() if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]"
    assert words != "--version" or run.stdout.startswith(f"meshcritic {version('meshcritic')}\n")

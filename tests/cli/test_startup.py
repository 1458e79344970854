"""What a command imports: a library that takes seconds to import is loaded by the runs that use it."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cli.startup import without_collection

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests" / "data" / "photograph" / "basketball.jpg"
ONE_PERSON = (500, 260, 700, 533)

TRAINING = {"datasets", "pandas", "peft", "sentence_transformers", "sklearn", "trl"}
AGENT = {"langchain_core", "langgraph"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "unused"),
    [("predict", TRAINING | AGENT), ("critique", TRAINING)],
    ids=["predict", "critique"],
)
def test_a_photograph_needs_no_library_of_training(command: str, unused: set[str], tmp_path: Path):
    Image.open(PHOTO).crop(ONE_PERSON).save(tmp_path / "person.png")
    words = [command, str(tmp_path / "person.png"), "--out", str(tmp_path / "out"), "--samples", "2"]
    code = (
        "import sys\nfrom meshcritic import main\n"
        f"try: main()\nfinally: print(sorted({unused!r} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert list((tmp_path / "out").rglob("person-0-overlay.png"))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool):
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with without_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if before else gc.disable()

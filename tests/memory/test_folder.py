from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from memory.folder import Memory, open_memory
from memory.prototype_memory import Prototype
from tests.memory.conftest import WordCounts, seed

LOOK = np.array([1.0, 2.0])


def opened(folder, frozen: bool = False, image_embedder: str = "encoder") -> Memory:
    return open_memory(folder, WordCounts(), image_embedder, dim=2, frozen=frozen)


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path) as memory:
        memory.rules.add([seed("knee"), seed("foot")])
        memory.prototypes.add([(Prototype.create("a", "seen", 50.0, [], {}, {}), LOOK)])
    return tmp_path


def recalled(memory: Memory) -> tuple[str, str]:
    return memory.rules.retrieve("foot", [], 1, True)[0].rule.text, memory.prototypes.nearest(LOOK, 1)[0][
        0
    ].case_id


def test_both_memories_survive_in_one_folder(folder):
    assert {"memory.sqlite", "rules.faiss", "prototypes.faiss"} <= {file.name for file in folder.iterdir()}
    with opened(folder, frozen=True) as memory:
        assert recalled(memory) == ("foot", "a")


def test_missing_damaged_or_swapped_caches_are_rebuilt(folder):
    (folder / "rules.faiss").write_bytes(b"junk")
    (folder / "prototypes.faiss").unlink()
    with opened(folder) as memory:
        assert recalled(memory) == ("foot", "a")
    (folder / "rules.faiss").replace(folder / "prototypes.faiss")
    with opened(folder, frozen=True) as memory:
        assert recalled(memory) == ("foot", "a")


def test_an_outdated_cache_is_not_used(folder):
    stale = (folder / "rules.faiss").read_bytes()
    with opened(folder) as memory:
        memory.rules.add([seed("hand")])
    (folder / "rules.faiss").write_bytes(stale)
    with opened(folder, frozen=True) as memory:
        assert memory.rules.retrieve("hand", [], 1, True)[0].rule.text == "hand"


def test_frozen_use_changes_no_file(folder):
    def content() -> dict[str, bytes]:
        return {
            file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".sqlite", ".faiss")
        }

    before = content()
    with opened(folder, frozen=True) as memory:
        recalled(memory)
    assert content() == before


def test_a_missing_frozen_memory_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError, match="no memory at"):
        opened(tmp_path / "nowhere", frozen=True)
    assert not (tmp_path / "nowhere").exists()


def test_another_embedder_is_refused_with_both_names(folder):
    with pytest.raises(ValueError, match="image_embedder 'encoder', not 'clip'"):
        opened(folder, image_embedder="clip")


def test_memory_imports_no_package_above_it_and_no_slow_library():
    code = (
        "import sys, memory.folder; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'hmr', 'agent', 'rl', 'eval', 'torch', 'transformers', 'sentence_transformers'}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )

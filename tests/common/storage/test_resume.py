"""Which checkpoint a run goes on from: the newest that was written to its end."""

from pathlib import Path

import pytest

from common.storage.fingerprint import claim_run, has_fingerprint, remove_fingerprint, write_fingerprint
from common.storage.resume import has_ended, last_whole_checkpoint


def checkpoint(run: Path, step: int, state: str = "{}") -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_newest_by_its_number(tmp_path: Path):
    checkpoint(tmp_path, 900)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-900")
    newest = checkpoint(tmp_path, 1000)
    assert last_whole_checkpoint(tmp_path) == str(newest)
    assert last_whole_checkpoint(tmp_path / "elsewhere") is None


def test_one_that_was_cut_off_is_passed_over(tmp_path: Path):
    whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, state='{"step": 2')
    (tmp_path / "checkpoint-30").mkdir()
    assert last_whole_checkpoint(tmp_path) == str(whole)


def test_one_that_a_callback_had_not_finished_is_passed_over(tmp_path: Path):
    whole, cut = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    (whole / "ema.safetensors").touch()
    (cut / "ema.safetensors.partial").touch()
    assert last_whole_checkpoint(tmp_path, "ema.safetensors") == str(whole)
    assert last_whole_checkpoint(tmp_path) == str(cut)


def test_a_label_tells_what_files_were_made_from(tmp_path: Path):
    write_fingerprint(tmp_path, {"policy": "a", "sizes": (1, 2)})
    assert has_fingerprint(tmp_path, {"sizes": [1, 2]})
    assert not has_fingerprint(tmp_path, {"policy": "b"})
    remove_fingerprint(tmp_path)
    assert not has_fingerprint(tmp_path, {"policy": "a"})


def test_a_checkpoint_says_whether_its_run_was_over(tmp_path: Path):
    assert not has_ended(checkpoint(tmp_path, 2, state='{"global_step": 2, "max_steps": 3}'))
    assert has_ended(checkpoint(tmp_path, 3, state='{"global_step": 3, "max_steps": 3}'))


def test_nothing_goes_on_from_the_last_step(tmp_path: Path):
    whole = checkpoint(tmp_path, 2, state='{"global_step": 2, "max_steps": 3}')
    ended = checkpoint(tmp_path, 3, state='{"global_step": 3, "max_steps": 3}')
    assert last_whole_checkpoint(tmp_path, unended=True) == str(whole)
    assert last_whole_checkpoint(tmp_path) == str(ended)


def test_a_folder_belongs_to_the_run_that_left_something_there(tmp_path: Path):
    run, leaves = tmp_path / "run", ("checkpoint-*", "model")
    first = {"seed": 1, "losses": {"mask": 0.5}, "sizes": (1, 2)}
    claim_run(run, first, leaves)
    claim_run(run, first, leaves)
    claim_run(run, {**first, "seed": 2}, leaves)  # nothing has come of it yet
    checkpoint(run, 10)
    claim_run(run, {**first, "seed": 2}, leaves)
    with pytest.raises(ValueError, match=r"run holds another run \(seed 2, not 1\); remove it or choose"):
        claim_run(run, first, leaves)
    assert has_fingerprint(run, {"seed": 2})


def test_a_refusal_names_a_few_differences(tmp_path: Path):
    claim_run(tmp_path, {"a": 1, "b": {"c": 2, "d": 3}, "e": None, "f": 4}, ["model"])
    (tmp_path / "model").touch()
    with pytest.raises(ValueError, match=r"\(b\.c 2, not 5\)"):
        claim_run(tmp_path, {"a": 1, "b": {"c": 5, "d": 3}, "e": None, "f": 4}, ["model"])
    with pytest.raises(ValueError, match=r"\(a 1, not null; f 4, not 5; b\.c 2, not null; 1 more\)"):
        claim_run(tmp_path, {"a": None, "b": {}, "e": None, "f": 5}, ["model"])


def test_what_bears_no_label_is_nobody_s(tmp_path: Path):
    (tmp_path / "model").touch()
    with pytest.raises(ValueError, match=r"has no made_from\.json"):
        claim_run(tmp_path, {"seed": 1}, ["model"])

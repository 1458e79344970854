"""Which checkpoint a run goes on from: the newest that was written to its end."""

from pathlib import Path

from hmr.resume import label, last_whole_checkpoint, unlabel, was_made_from


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
    label(tmp_path, {"policy": "a", "sizes": (1, 2)})
    assert was_made_from(tmp_path, {"sizes": [1, 2]})
    assert not was_made_from(tmp_path, {"policy": "b"})
    unlabel(tmp_path)
    assert not was_made_from(tmp_path, {"policy": "a"})

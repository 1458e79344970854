"""A folder of `meshcritic align` belongs to the run that left something there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.pipelines.align_claim import claim_folder
from eval.pipelines.align_settings import AlignSettings
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from rl.policy_gradient.config import PolicyGradientConfig
from rl.preferences.search import SearchSettings
from rl.rounds import Rounds
from tests.command import call

TRAINING = {"loss_type": "resample", "max_steps": 6, "learning_rate": 0.01}
RESAMPLE = AlignSettings("noisy-truth:1", alignment=TRAINING)
GRADIENT = PolicyGradientConfig(updates=1)
SEARCH = SearchSettings.of_size(20)
OTHERS = {
    "resample": replace(RESAMPLE, alignment={}, policy_gradient=GRADIENT),
    "fit.max_steps null, not 5": replace(RESAMPLE, fit={"max_steps": 5}),
    "rounds.count 1, not 2": replace(RESAMPLE, rounds=Rounds(2)),
    "training.max_steps 6, not 7": replace(RESAMPLE, alignment={**TRAINING, "max_steps": 7}),
    "shuffled false, not true": replace(RESAMPLE, critic="shuffled:noisy-truth:1"),
}


def test_another_body_is_another_run(tiny_policy: DiffusionPolicy, out: Path, tmp_path: Path) -> None:
    (tmp_path / "smpl.npz").write_bytes(b"a body")
    other = replace(RESAMPLE, body=tmp_path / "smpl.npz")
    with pytest.raises(ValueError, match=r"\(body null, not "):
        claim_folder(tiny_policy, other, out, images=2)
    assert "body" not in json.loads((out / "settings.json").read_text())  # folders from before stay valid


@pytest.fixture
def out(tiny_policy: DiffusionPolicy, tmp_path: Path) -> Path:
    """The folder of a run of RESAMPLE that has scored a group."""
    claim_folder(tiny_policy, RESAMPLE, tmp_path / "out", images=2)
    group = tmp_path / "out" / "round-0" / "groups" / "unfinished" / "000000-000000"
    group.parent.mkdir(parents=True)
    group.touch()
    return tmp_path / "out"


def test_the_same_run_goes_on_with_what_may_change_between_two(
    tiny_policy: DiffusionPolicy, out: Path
) -> None:
    rounds = replace(RESAMPLE.rounds, in_flight=4)
    alignment = {**TRAINING, "replay_file": "moved.safetensors"}
    claim_folder(tiny_policy, replace(RESAMPLE, rounds=rounds, alignment=alignment), out, images=2)


@pytest.mark.parametrize("why", OTHERS)
def test_another_run_is_refused_in_one_sentence(tiny_policy: DiffusionPolicy, out: Path, why: str) -> None:
    before = (out / "settings.json").read_text()
    with pytest.raises(ValueError, match="; use another --out") as refused:
        claim_folder(tiny_policy, OTHERS[why], out, images=2)
    assert str(refused.value).startswith(f"{out} holds a run with other settings ({why}")
    assert (out / "settings.json").read_text() == before


def test_another_number_of_images_is_another_run(tiny_policy: DiffusionPolicy, out: Path) -> None:
    with pytest.raises(ValueError, match=r"\(images 2, not 3\)"):
        claim_folder(tiny_policy, RESAMPLE, out, images=3)


def test_a_folder_of_an_unknown_run_is_refused(tiny_policy: DiffusionPolicy, out: Path) -> None:
    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"other settings \(it has no settings\.json\); use another"):
        claim_folder(tiny_policy, RESAMPLE, out, images=2)


def test_a_folder_without_results_accepts_other_settings(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    """Scenes and a memory are no results."""
    claim_folder(tiny_policy, RESAMPLE, tmp_path, images=2)
    (tmp_path / "scenes" / "wild-train-2").mkdir(parents=True)
    for settings in OTHERS.values():
        claim_folder(tiny_policy, settings, tmp_path, images=2)


def test_the_methods_have_the_names_of_the_option() -> None:
    search = replace(RESAMPLE, rounds=Rounds(search=SEARCH))
    settings = (RESAMPLE, OTHERS["resample"], search, AlignSettings())
    assert [one.method for one in settings] == ["resample", "policy-gradient", "search", "clip"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rounds", 2), "the policy gradient samples anew in every update; it has no 2 rounds"),
        (
            ("--group-size", 8),
            "the policy gradient has the group_size of its configuration, 12; leave out --group-size",
        ),
    ],
)
def test_the_policy_gradient_refuses_the_options_of_the_other_methods(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[object, ...],
    message: str,
) -> None:
    words = ("align", "--method", "policy-gradient", "--out", tmp_path / "out", *more)
    code, _, err = call(monkeypatch, capsys, *words)
    assert (code, err) == (2, f"meshcritic: {message}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_finished_policy_is_not_overwritten_by_another_method(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text("{max_steps: 2, per_device_train_batch_size: 2, save_strategy: 'no'}")
    (tmp_path / "gradient.yaml").write_text("{updates: 1, images_per_update: 2, group_size: 3, steps: 3}")
    out = tmp_path / "out"
    words = ("align", "--policy", tmp_path / "base", "--critic", "noisy-truth:1", "--images", 2, "--out", out)
    resample = (*words, "--group-size", 3, "--config", tmp_path / "tiny.yaml", "--method", "resample")
    gradient = (*words, "--config", tmp_path / "gradient.yaml", "--method", "policy-gradient")
    assert call(monkeypatch, capsys, *resample)[0] == 0
    digest, record = load_policy(out).digest(), (out / "alignment.json").read_text()
    for other in (gradient, (*resample, "--fit-first")):
        code, _, err = call(monkeypatch, capsys, *other)
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith(f"meshcritic: {out} holds a run with other settings (")
        assert load_policy(out).digest() == digest
        assert (out / "alignment.json").read_text() == record
        assert not (out / "fit").exists()
    assert call(monkeypatch, capsys, *resample)[0] == 0
    assert load_policy(out).digest() == digest

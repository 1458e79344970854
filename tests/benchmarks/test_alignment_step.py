"""What is compared is the same step: the rivals' gradients are the trainer's own."""

import copy
import json
import subprocess

import pytest
import torch

from benchmarks.alignment_step import BenchSettings, bench_align
from benchmarks.alignment_step_variants import SETTINGS, draw_batch, encoded, loop, measure, reencode
from rl.losses import clip, log_ratio
from tests.command import call


@pytest.fixture
def batch(tiny_policy):
    return draw_batch(tiny_policy, images=3, group=4, times=2)


@pytest.fixture
def moved(tiny_policy):
    """A policy that has left its reference, so that the clip has something to say."""
    policy = copy.deepcopy(tiny_policy)
    policy.denoiser.requires_grad_(True)
    with torch.no_grad():
        policy.denoiser.head.bias += 0.05
    return policy


def gradients(policy):
    return torch.cat([tensor.grad.flatten() for tensor in policy.denoiser.parameters()])


@pytest.mark.parametrize("rival", ["reencode", "reencode_shared", "loop"])
def test_every_step_has_the_same_gradient(tiny_policy, moved, batch, rival):
    ours = copy.deepcopy(moved)
    query = (encoded(ours, batch), batch.x0, batch.timesteps, batch.noise)
    ratio = log_ratio(ours(*query), tiny_policy(*query).detach(), SETTINGS.beta)
    clip(ratio, batch.advantages, torch.ones(3, 4, dtype=torch.bool), SETTINGS).backward()
    if rival == "loop":
        loop(moved, tiny_policy, batch, encoded(moved, batch))
    else:
        reencode(moved, tiny_policy, batch, shared=rival == "reencode_shared")
    torch.testing.assert_close(gradients(moved), gradients(ours), atol=1e-6, rtol=1e-4)
    assert gradients(ours).any()


@pytest.mark.parametrize("step", ["trainer", "reencode", "loop"])
def test_the_first_step_does_not_count(tiny_policy, batch, step):
    before = tiny_policy.denoiser.head.weight.clone()
    spent = measure(step, tiny_policy, batch, steps=2)
    assert len(spent) == 2
    assert all(seconds > 0 and cpu_seconds > 0 for seconds, cpu_seconds in spent)
    assert not torch.equal(tiny_policy.denoiser.head.weight, before)


@pytest.mark.slow
def test_the_command_measures_all_of_them(tiny_policy, tmp_path, monkeypatch, capsys):
    tiny_policy.save_pretrained(tmp_path)
    words = ("bench", "align", "--policy", tmp_path, "--images", 2, "--group-size", 3, "--json")
    code, out, _ = call(monkeypatch, capsys, *words)
    assert code == 0
    told = json.loads(out)
    assert told["settings"] == {"images": 2, "group": 3, "times": 2, "policy": tmp_path.name}
    assert set(told["steps"]) == {"trainer", "reencode", "reencode_shared", "loop"}
    assert set(told["times_faster"]) == set(told["times_less_cpu"]) == {"reencode", "reencode_shared", "loop"}
    assert all(cost["peak_mb"] > 0 for cost in told["steps"].values())


def test_a_step_that_is_killed_says_so(monkeypatch):
    """As by the kernel, for want of memory: there is no last line to pass on."""
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: killed)
    with pytest.raises(ValueError, match="'trainer' failed: it said nothing and ended with code -9"):
        bench_align(BenchSettings(), lambda title, total: lambda done, note="": None)


@pytest.mark.slow
def test_a_step_that_fails_costs_one_sentence(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "bench", "align", "--policy", tmp_path / "nowhere")
    assert (code, "no policy" in err, "Traceback" in err) == (2, True, False)

"""The compared steps have equal gradients, and the benchmark measures all of them."""

import copy
import json
import subprocess

import pytest
import torch

from benchmarks.performance.alignment_step import BenchSettings, bench_align, main
from benchmarks.performance.alignment_step_variants import (
    SETTINGS,
    draw_batch,
    encoded,
    loop,
    measure,
    reencode,
)
from rl.losses import clip, log_ratio


@pytest.fixture
def batch(tiny_policy):
    return draw_batch(tiny_policy, images=3, group=4, times=2)


@pytest.fixture
def moved(tiny_policy):
    """A policy that differs from its reference, so that the clip has an effect."""
    policy = copy.deepcopy(tiny_policy)
    policy.denoiser.requires_grad_(True)
    with torch.no_grad():
        policy.denoiser.head.bias += 0.05
    return policy


def gradients(policy):
    return torch.cat([tensor.grad.flatten() for tensor in policy.denoiser.parameters()])


@pytest.mark.parametrize("variant", ["reencode", "reencode_shared", "loop"])
def test_every_step_has_the_same_gradient(tiny_policy, moved, batch, variant):
    ours = copy.deepcopy(moved)
    query = (encoded(ours, batch), batch.x0, batch.timesteps, batch.noise)
    ratio = log_ratio(ours(*query), tiny_policy(*query).detach(), SETTINGS.beta)
    clip(ratio, batch.advantages, torch.ones(3, 4, dtype=torch.bool), SETTINGS).backward()
    if variant == "loop":
        loop(moved, tiny_policy, batch, encoded(moved, batch))
    else:
        reencode(moved, tiny_policy, batch, shared=variant == "reencode_shared")
    torch.testing.assert_close(gradients(moved), gradients(ours), atol=1e-6, rtol=1e-4)
    assert gradients(ours).any()


@pytest.mark.parametrize("step", ["trainer", "reencode", "loop"])
def test_the_first_step_does_not_count(tiny_policy, batch, step):
    before = tiny_policy.denoiser.head.weight.clone()
    times = measure(step, tiny_policy, batch, steps=2)
    assert len(times) == 2
    assert all(seconds > 0 and cpu_seconds > 0 for seconds, cpu_seconds in times)
    assert not torch.equal(tiny_policy.denoiser.head.weight, before)


@pytest.mark.slow
def test_all_steps_are_measured(tiny_policy, tmp_path, capsys):
    tiny_policy.save_pretrained(tmp_path)
    main(["--policy", str(tmp_path), "--images", "2", "--group-size", "3", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["settings"] == {"images": 2, "group": 3, "times": 2, "policy": tmp_path.name}
    assert set(result["steps"]) == {"trainer", "reencode", "reencode_shared", "loop"}
    assert (
        set(result["times_faster"])
        == set(result["times_less_cpu"])
        == {"reencode", "reencode_shared", "loop"}
    )
    assert all(cost["peak_mb"] > 0 for cost in result["steps"].values())


def test_a_killed_step_is_an_error(monkeypatch):
    """A step killed by the kernel, for example because memory ran out, prints no last line."""
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: killed)
    with pytest.raises(ValueError, match="'trainer' failed: no output, exit code -9"):
        bench_align(BenchSettings(), lambda title, total: lambda done, note="": None)


@pytest.mark.slow
def test_a_failing_step_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--policy", str(tmp_path / "nowhere")])
    err = capsys.readouterr().err
    assert (ended.value.code, "no policy" in err, "Traceback" in err) == (2, True, False)

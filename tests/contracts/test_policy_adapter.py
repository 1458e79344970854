"""The contract of `PolicyAdapter`, and a check that our policy behind it is aligned to the same weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import AdapterGroup, DiffusionPolicyAdapter, PolicyAdapter
from rl.preferences.build import build_preferences, load_preferences
from rl.preferences.tensors import tensors_from_preferences
from rl.rounds import Rounds, align_in_rounds
from rl.scorers.rewards import RewardMix
from rl.trainer import align

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "align-your-policy.md"
SIDE = 24  # pixels of the images in the page


def ours(tiny_policy: DiffusionPolicy) -> PolicyAdapter:
    return DiffusionPolicyAdapter(tiny_policy)


def of_the_docs(tiny_policy: DiffusionPolicy) -> PolicyAdapter:
    """The first two code blocks of the page: an untrained policy that shares no code with ours."""
    page: dict[str, object] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[:2]), page)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return page["DotsAdapter"](page["Dots"]())  # pyright: ignore[reportCallIssue]


ADAPTERS: dict[str, Callable[[DiffusionPolicy], PolicyAdapter]] = {"ours": ours, "of the docs": of_the_docs}
TRAINABLE = {"ours": "policy.denoiser", "of the docs": "network.net"}


@pytest.fixture(params=sorted(ADAPTERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def adapter(name: str, tiny_policy: DiffusionPolicy) -> PolicyAdapter:
    return ADAPTERS[name](tiny_policy)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    size = (SIDE, SIDE, 3)
    return [
        Sample(
            f"id-{n}",
            rng.integers(0, 255, size, dtype=np.uint8),
            Box(2.0, 2.0, SIDE - 2.0, SIDE - 2.0),
            Camera.estimate(SIDE, SIDE),
        )
        for n in range(3)
    ]


def draw(adapter: PolicyAdapter, samples: list[Sample], scale: float = 1.0, seed: int = 0):
    features = adapter.features(samples)
    return features, adapter.sample(features, 5, torch.Generator().manual_seed(seed), scale)


def first_of_each(*, hypotheses, **kwargs):
    """A reward for bodies and tensors: the first number of each hypothesis."""
    shown = hypotheses.params.transl if isinstance(hypotheses, Hypotheses) else hypotheses
    return shown.flatten(1)[:, 0].tolist()


def test_features_are_one_reproducible_vector_per_image(adapter: PolicyAdapter, samples: list[Sample]):
    features = adapter.features(samples)
    assert features.shape[0] == 3
    assert not features.requires_grad
    torch.testing.assert_close(adapter.features(samples[1:2]), features[1:2])
    assert not torch.equal(features[0], features[1])


def test_samples_depend_on_the_generator_only(adapter: PolicyAdapter, samples: list[Sample]):
    before = torch.random.get_rng_state()
    _, draws = draw(adapter, samples)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert draws.x0.shape[:2] == (3, 5)
    assert draws.x0.isfinite().all()
    assert [len(group) for group in draws.shown] == [5, 5, 5]
    assert torch.equal(draw(adapter, samples)[1].x0, draws.x0)
    assert not torch.equal(draw(adapter, samples, seed=1)[1].x0, draws.x0)
    assert draw(adapter, samples, scale=0.3)[1].x0.std(dim=1).mean() < draws.x0.std(dim=1).mean()


def test_errors_do_not_depend_on_other_hypotheses(adapter: PolicyAdapter, samples: list[Sample]):
    features, draws = draw(adapter, samples)
    generator = torch.Generator().manual_seed(1)
    times = torch.randint(adapter.config.num_train_timesteps, (3, 2), generator=generator)
    noise = torch.randn(3, 2, draws.x0.shape[-1], generator=generator)
    error = adapter(features, draws.x0, times, noise)
    assert (error.shape, error.dtype) == ((3, 5, 2), torch.float32)
    assert (error >= 0).all()
    assert torch.equal(adapter(features, draws.x0, times, noise), error)  # no dropout, no noise of its own
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(adapter(features, draws.x0[:, order], times, noise), error[:, order])
    torch.testing.assert_close(
        adapter(features[2:], draws.x0[2:], times[2:], noise[2:]), error[2:], rtol=1e-4, atol=1e-5
    )


def test_errors_have_gradients_for_the_trained_submodule(
    name: str, adapter: PolicyAdapter, samples: list[Sample]
):
    features, draws = draw(adapter, samples)
    trained = adapter.requires_grad_(False).get_submodule(TRAINABLE[name]).requires_grad_(True)
    adapter(
        features, draws.x0, torch.full((3, 1), 50), torch.zeros(3, 1, draws.x0.shape[-1])
    ).sum().backward()
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in trained.parameters())


def test_digest_saving_and_loading(name: str, adapter: PolicyAdapter, tmp_path: Path):
    changed = copy.deepcopy(adapter)
    with torch.no_grad():
        next(changed.get_submodule(TRAINABLE[name]).parameters()).add_(1.0)
    assert changed.digest() != adapter.digest()
    changed.save_pretrained(tmp_path)
    adapter.load_weights(tmp_path)
    assert adapter.digest() == changed.digest()


def test_groups_are_built_and_read_back(adapter: PolicyAdapter, samples: list[Sample], tmp_path: Path):
    dataset = load_preferences(
        build_preferences(adapter, RewardMix([first_of_each]), samples, tmp_path, group_size=4)
    )
    groups = [AdapterGroup.from_row(row) for row in dataset]
    for sample, group in zip(samples, groups, strict=True):
        assert first_of_each(hypotheses=group.hypotheses) == pytest.approx(group.scores)
        torch.testing.assert_close(group.condition, adapter.features([sample])[0])
    tensors = tensors_from_preferences(adapter, dataset)
    assert torch.equal(tensors.x0, torch.stack([group.x0 for group in groups]))
    assert tensors.mask.all()


@pytest.mark.slow
def test_rounds_align_it(name: str, adapter: PolicyAdapter, samples: list[Sample], tmp_path: Path):
    settings = {"max_steps": 4, "learning_rate": 0.01, "trainable": TRAINABLE[name], "save_strategy": "no"}

    def run():
        stage = lambda title, total: lambda done: None  # noqa: E731
        plan = Rounds(2, group_size=3)
        return align_in_rounds(adapter, RewardMix([first_of_each]), samples, tmp_path, settings, plan, stage)

    aligned = run()
    assert aligned.digest() != adapter.digest()
    assert run().digest() == aligned.digest()  # loaded from disk
    sampled_by = [
        set(load_preferences(tmp_path / f"round-{k}" / "groups")["policy_digest"]) for k in range(2)
    ]
    assert sampled_by[0] == {adapter.digest()}
    assert sampled_by[1].isdisjoint({adapter.digest(), aligned.digest()})


def test_our_policy_is_aligned_to_the_same_weights(
    tiny_policy: DiffusionPolicy, samples: list[Sample], tmp_path: Path
):
    """Directly and through the three methods: the same scores, the same weights."""
    whole, bodies = DiffusionPolicyAdapter(copy.deepcopy(tiny_policy)), tiny_policy
    found = []
    for policy, trainable, folder in ((whole, "policy.denoiser", "a"), (bodies, "denoiser", "b")):
        out = tmp_path / folder
        groups = load_preferences(
            build_preferences(policy, RewardMix([first_of_each]), samples, out, group_size=4)
        )
        settings = GroupPreferenceConfig(
            output_dir=str(out),
            trainable=trainable,
            max_steps=4,
            learning_rate=0.01,
            use_cpu=True,
            save_strategy="no",
        )
        aligned = align(policy, groups, settings)
        found.append(
            torch.cat([tensor.flatten() for tensor in aligned.get_submodule(trainable).parameters()])
        )
    torch.testing.assert_close(*found)
    assert not torch.equal(found[1], torch.cat([t.flatten() for t in tiny_policy.denoiser.parameters()]))

"""What every denoiser must do. A new one adds a line to `DENOISERS`."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hmr.policy.denoisers import LAYOUTS, Denoiser, TokenDenoiser, sinusoids
from hmr.policy.parametrization import VECTOR_SIZE, split

SEEN = 20
DENOISERS = {
    "mlp": lambda: Denoiser(VECTOR_SIZE, SEEN + VECTOR_SIZE, 32, 2),
    **{
        f"tokens: {layout}": lambda layout=layout: TokenDenoiser(SEEN + VECTOR_SIZE, 32, 2, 4, layout)
        for layout in LAYOUTS
    },
}


@pytest.fixture(params=DENOISERS)
def denoiser(request: pytest.FixtureRequest) -> nn.Module:
    """As training might leave it: nothing is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DENOISERS[request.param]()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    return module.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy, pull = torch.randn(2, 2, 3, 4, VECTOR_SIZE, generator=generator)
    timesteps = torch.tensor([[0, 10, 500, 999], [3, 40, 700, 900]])
    return noisy, pull, timesteps, torch.randn(2, SEEN + VECTOR_SIZE, generator=generator)


def test_it_answers_for_every_row(denoiser: nn.Module, inputs):
    answer = denoiser(*inputs)
    assert answer.shape == inputs[0].shape
    assert answer.isfinite().all()


def test_rows_share_nothing_but_their_image_and_time(denoiser: nn.Module, inputs):
    """The whole against one hypothesis, one time and one image at a time."""
    noisy, pull, timesteps, condition = inputs
    whole = denoiser(*inputs)
    for image, group, step in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        alone = denoiser(
            noisy[image, group, step][None, None, None],
            pull[image, group, step][None, None, None],
            timesteps[image, step][None, None],
            condition[image][None],
        )
        torch.testing.assert_close(alone[0, 0, 0], whole[image, group, step], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("which", ["noisy", "pull", "timesteps", "seen", "guess"])
def test_everything_it_is_told_matters(denoiser: nn.Module, inputs, which: str):
    noisy, pull, timesteps, condition = again = [tensor.clone() for tensor in inputs]
    before = denoiser(*inputs)
    changed = {
        "noisy": noisy,
        "pull": pull,
        "timesteps": timesteps,
        "seen": condition[:, :5],
        "guess": condition[:, SEEN : SEEN + 5],
    }[which]
    changed += 1
    assert (denoiser(*again) - before).abs().max() > 1e-4


def test_every_number_can_move_any_other(denoiser: nn.Module, inputs):
    """Through attention or through a common layer: no part of the body is denoised by itself."""
    noisy, pull, timesteps, condition = inputs
    noisy = noisy[:1, :1, :1].clone().requires_grad_(True)
    denoiser(noisy, pull[:1, :1, :1], timesteps[:1, :1], condition[:1])[0, 0, 0, 7 * 6].backward()
    assert noisy.grad is not None
    assert (noisy.grad.abs() > 0).all()


def test_it_keeps_the_dtype_of_its_weights(denoiser: nn.Module, inputs):
    noisy, pull, timesteps, condition = inputs
    answer = denoiser.bfloat16()(noisy.bfloat16(), pull.bfloat16(), timesteps, condition.bfloat16())
    assert answer.dtype == torch.bfloat16


COMPILE = """
import torch
from tests.contracts.test_denoiser import DENOISERS, SEEN
from hmr.policy.parametrization import VECTOR_SIZE

denoiser = DENOISERS[{name!r}]().requires_grad_(False)
noisy, pull = torch.randn(2, 2, 3, 4, VECTOR_SIZE)
inputs = noisy, pull, torch.full((2, 4), 500), torch.randn(2, SEEN + VECTOR_SIZE)
compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager")  # fullgraph: a graph break is an error
torch.testing.assert_close(compiled(*inputs), denoiser(*inputs), atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_it_compiles_without_a_graph_break(name: str):
    """In a process of its own: here the shape checks of the tests would be compiled too, and beartype breaks graphs."""
    subprocess.run([sys.executable, "-c", COMPILE.format(name=name)], check=True)


def test_time_is_told_as_sinusoids():
    # at step 0: sin 0 = 0 and cos 0 = 1; the first frequency is 1 a step, so step 2 has sin 2 = .9093, cos 2 = -.4161
    told = sinusoids(torch.tensor([0, 2]), 4)
    torch.testing.assert_close(told[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(told[1, [0, 4]], torch.tensor([0.9093, -0.4161]), atol=1e-4, rtol=0)


# -- what only tokens must do -------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "tokens"), [("parts", 6), ("joints", 24), ("columns", 52)])
def test_a_layout_holds_every_place_once(layout: str, tokens: int):
    held = [place for token in LAYOUTS[layout] for place in token]
    assert len(LAYOUTS[layout]) == tokens
    assert sorted(held) == list(range(VECTOR_SIZE))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_and_homes_are_inverse(layout: str):
    denoiser = TokenDenoiser(SEEN + VECTOR_SIZE, 32, 1, 4, layout)
    vector = torch.arange(1.0, VECTOR_SIZE + 1)
    slots = denoiser._slots(vector)
    assert torch.equal(slots.flatten()[denoiser.homes], vector)
    assert slots.sum() == vector.sum()  # what pads a token is zero


def test_a_column_token_is_a_column_of_the_rotation():
    """The vector of 24 rotations whose first columns are e_z, second e_x: token 2 j reads (0, 0, 1)."""
    vector = torch.zeros(VECTOR_SIZE)
    vector[:144].view(24, 3, 2)[:, 2, 0] = 1
    vector[:144].view(24, 3, 2)[:, 0, 1] = 1
    rotations, _, _ = split(vector)
    slots = TokenDenoiser(SEEN + VECTOR_SIZE, 32, 1, 4, "columns")._slots(vector)
    for joint in (0, 7, 23):
        assert torch.equal(slots[2 * joint, :3], rotations[joint, :, 0])
        assert torch.equal(slots[2 * joint + 1, :3], rotations[joint, :, 1])


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match="fingers"):
        TokenDenoiser(SEEN + VECTOR_SIZE, 32, 1, 4, "fingers")
    with pytest.raises(ValueError, match="30"):
        TokenDenoiser(SEEN + VECTOR_SIZE, 30, 1, 4, "joints")

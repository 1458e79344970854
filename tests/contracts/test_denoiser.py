"""The contract of every denoiser. A new one adds a line to `DENOISERS`."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hmr.policy.denoisers import LAYOUTS, Denoiser, TokenDenoiser, sinusoids
from hmr.policy.parametrization import VECTOR_SIZE, split

FEATURES = 20
DENOISERS = {
    "mlp": lambda: Denoiser(VECTOR_SIZE, FEATURES + VECTOR_SIZE, 32, 2),
    **{
        f"tokens: {layout}": lambda layout=layout: TokenDenoiser(FEATURES + VECTOR_SIZE, 32, 2, 4, layout)
        for layout in LAYOUTS
    },
}


@pytest.fixture(params=DENOISERS)
def denoiser(request: pytest.FixtureRequest) -> nn.Module:
    """With random parameters, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DENOISERS[request.param]()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    return module.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy, feedback = torch.randn(2, 2, 3, 4, VECTOR_SIZE, generator=generator)
    timesteps = torch.tensor([[0, 10, 500, 999], [3, 40, 700, 900]])
    return noisy, feedback, timesteps, torch.randn(2, FEATURES + VECTOR_SIZE, generator=generator)


def test_the_output_has_the_shape_of_the_input(denoiser: nn.Module, inputs):
    output = denoiser(*inputs)
    assert output.shape == inputs[0].shape
    assert output.isfinite().all()


def test_rows_are_independent(denoiser: nn.Module, inputs):
    """The whole batch against single hypotheses, times and images."""
    noisy, feedback, timesteps, condition = inputs
    whole = denoiser(*inputs)
    for image, group, step in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        alone = denoiser(
            noisy[image, group, step][None, None, None],
            feedback[image, group, step][None, None, None],
            timesteps[image, step][None, None],
            condition[image][None],
        )
        torch.testing.assert_close(alone[0, 0, 0], whole[image, group, step], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("which", ["noisy", "feedback", "timesteps", "features", "estimate"])
def test_the_output_depends_on_every_input(denoiser: nn.Module, inputs, which: str):
    noisy, feedback, timesteps, condition = again = [tensor.clone() for tensor in inputs]
    before = denoiser(*inputs)
    changed = {
        "noisy": noisy,
        "feedback": feedback,
        "timesteps": timesteps,
        "features": condition[:, :5],
        "estimate": condition[:, FEATURES : FEATURES + 5],
    }[which]
    changed += 1
    assert (denoiser(*again) - before).abs().max() > 1e-4


def test_every_output_depends_on_every_input_parameter(denoiser: nn.Module, inputs):
    """Through attention or a common layer: no part of the body is denoised separately."""
    noisy, feedback, timesteps, condition = inputs
    noisy = noisy[:1, :1, :1].clone().requires_grad_(True)
    denoiser(noisy, feedback[:1, :1, :1], timesteps[:1, :1], condition[:1])[0, 0, 0, 7 * 6].backward()
    assert noisy.grad is not None
    assert (noisy.grad.abs() > 0).all()


def test_it_keeps_the_dtype_of_its_weights(denoiser: nn.Module, inputs):
    noisy, feedback, timesteps, condition = inputs
    output = denoiser.bfloat16()(noisy.bfloat16(), feedback.bfloat16(), timesteps, condition.bfloat16())
    assert output.dtype == torch.bfloat16


COMPILE = """
import torch
from tests.contracts.test_denoiser import DENOISERS, FEATURES
from hmr.policy.parametrization import VECTOR_SIZE

denoiser = DENOISERS[{name!r}]().requires_grad_(False)
noisy, feedback = torch.randn(2, 2, 3, 4, VECTOR_SIZE)
inputs = noisy, feedback, torch.full((2, 4), 500), torch.randn(2, FEATURES + VECTOR_SIZE)
compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager")  # fullgraph: a graph break is an error
torch.testing.assert_close(compiled(*inputs), denoiser(*inputs), atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_it_compiles_without_a_graph_break(name: str):
    """In a separate process: here the shape checks of the tests would be compiled too, and beartype breaks graphs."""
    subprocess.run([sys.executable, "-c", COMPILE.format(name=name)], check=True)


def test_sinusoids_of_two_steps():
    # at step 0: sin 0 = 0 and cos 0 = 1; the first frequency is 1 per step, so step 2 has sin 2 = .9093, cos 2 = -.4161
    values = sinusoids(torch.tensor([0, 2]), 4)
    torch.testing.assert_close(values[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(values[1, [0, 4]], torch.tensor([0.9093, -0.4161]), atol=1e-4, rtol=0)


# -- the token denoiser --- -------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "tokens"), [("parts", 6), ("joints", 24), ("columns", 52)])
def test_a_layout_holds_every_entry_once(layout: str, tokens: int):
    entries = [entry for token in LAYOUTS[layout] for entry in token]
    assert len(LAYOUTS[layout]) == tokens
    assert sorted(entries) == list(range(VECTOR_SIZE))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_and_homes_are_inverse(layout: str):
    denoiser = TokenDenoiser(FEATURES + VECTOR_SIZE, 32, 1, 4, layout)
    vector = torch.arange(1.0, VECTOR_SIZE + 1)
    slots = denoiser._slots(vector)
    assert torch.equal(slots.flatten()[denoiser.homes], vector)
    assert slots.sum() == vector.sum()  # padding of a token is zero


def test_a_column_token_is_a_column_of_the_rotation():
    """The vector of 24 rotations whose first columns are e_z, second e_x: token 2 j reads (0, 0, 1)."""
    vector = torch.zeros(VECTOR_SIZE)
    vector[:144].view(24, 3, 2)[:, 2, 0] = 1
    vector[:144].view(24, 3, 2)[:, 0, 1] = 1
    rotations, _, _ = split(vector)
    slots = TokenDenoiser(FEATURES + VECTOR_SIZE, 32, 1, 4, "columns")._slots(vector)
    for joint in (0, 7, 23):
        assert torch.equal(slots[2 * joint, :3], rotations[joint, :, 0])
        assert torch.equal(slots[2 * joint + 1, :3], rotations[joint, :, 1])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="fingers"):
        TokenDenoiser(FEATURES + VECTOR_SIZE, 32, 1, 4, "fingers")
    with pytest.raises(ValueError, match="30"):
        TokenDenoiser(FEATURES + VECTOR_SIZE, 30, 1, 4, "joints")

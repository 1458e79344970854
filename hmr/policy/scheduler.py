"""The noise schedule and its solvers, from diffusers.

| name    | scheduler                     | paper                                               | order |
|---------|-------------------------------|-----------------------------------------------------|-------|
| `ddim`  | `DDIMScheduler`               | Song et al., ICLR 2021, arXiv 2010.02502            | 1     |
| `dpm++` | `DPMSolverMultistepScheduler` | DPM-Solver++(2M), Lu et al., 2022, arXiv 2211.01095 | 2     |

Both use one cosine schedule that is rescaled to end in pure noise (Lin et al., WACV 2024, arXiv 2305.08891), where
sigma / alpha is infinite. Only solvers that keep the predicted x_0 between steps can start there: `dpm++` can, `dpm`,
which keeps epsilon, cannot. For abar at the last time diffusers uses 2^-24 with `dpm++` and 0 with DDIM. Sampling ends
at sigma = 0 in both. A second-order step to sigma = 0 would be 0 times infinity, so the last step is always of first
order (`euler_at_final`). Karras' spacing of sigma indexes past its own table under this schedule and is not offered.
"""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from jaxtyping import Float
from torch import Tensor

__all__ = ["SOLVERS", "Solver", "new_solver", "set_times"]

SOLVERS = ("ddim", "dpm++")


@runtime_checkable
class Solver(Protocol):
    """The part of a diffusers scheduler that sampling uses."""

    alphas_cumprod: Tensor
    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None: ...

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, *, return_dict: bool
    ) -> tuple[Float[Tensor, "batch group dim"], ...]: ...


def new_solver(name: str, num_train_timesteps: int) -> Solver:
    """A new solver. Raises ValueError for an unknown name."""
    schedule = {
        "num_train_timesteps": num_train_timesteps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    if name == "ddim":
        return cast(Solver, DDIMScheduler(**schedule, clip_sample=False))
    if name == "dpm++":
        solver = DPMSolverMultistepScheduler(
            **schedule, algorithm_type="dpmsolver++", solver_order=2, euler_at_final=True
        )
        return cast(Solver, solver)
    raise ValueError(f"no solver is called {name!r}; there are {', '.join(SOLVERS)}")


def set_times(solver: Solver, steps: int, start_time: float, device: torch.device) -> list[int]:
    """Set a new solver to `steps` steps of equal length from `start_time` (1: the schedule's end) to 0, and return
    their times. Of as many equal steps over the whole schedule as come nearest to that, the last ones are taken.

    Raises ValueError for steps shorter than one time of the schedule.
    """
    total, times = round(steps / start_time), len(solver.alphas_cumprod)
    if total > times:
        raise ValueError(
            f"{steps} steps from time {start_time} are shorter than 1 of the schedule's {times} times"
        )
    solver.set_timesteps(total, device=device)
    return solver.timesteps.tolist()[total - steps :]

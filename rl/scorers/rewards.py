"""Reward functions as TRL's users know them, several of them mixed into one `Scorer`.

    def upright(*, hypotheses, **kwargs):
        return (-hypotheses.params.global_orient[:, 0].abs()).tolist()

    scorer = RewardMix([upright, agent], reward_weights=[0.3, 1.0], normalize=True)

A function is called once a group, with keywords alone: `sample`, `hypotheses`, and with a body `joints_cam_m` as well.
It answers with one score a hypothesis, higher being better, or None where it has nothing to say.

| here      | symbol | equation                                                                             |
|-----------|--------|--------------------------------------------------------------------------------------|
| scores    | s_ki   | of function k for hypothesis i                                                        |
| means     | m_k    | over the hypotheses of the group that k answered for; 0 if there are none             |
| weights   | w_k    |                                                                                       |
| mixed     | s_i    | sum_k w_k (s_ki where k answered, else m_k); None where no function answered          |
| normalize |        | the same of (s_ki - m_k) / std_k, in the group; 0 where std_k is rounding             |

The names, the weighted sum and the two orders of summing and normalising are those of TRL 1.16's GRPOTrainer
(`reward_funcs`, `reward_weights`; `normalize` is its `normalize_then_sum`, GDPO, arXiv 2601.05242). One thing is not:
TRL sums what is there, so a score that failed counts as 0, the worst there is on a scale from 0 to 100. Here it counts
as the mean of its group, which neither helps nor harms. With `normalize` the two agree, and so they do where a function
answers for all of a group or for none of it, TRL's own case.

Left out: TRL's normalisation of the sum over the batch, for advantages are made from rows (`rl.preferences.tensors`); functions
that are coroutines; rewards that depend on the step of training, for groups are scored before it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from hmr.body.model import Body
from hmr.types import Sample, Scorer
from rl.advantages import ROUNDING
from rl.scorers.identity import hash_of, scorer_digest

__all__ = ["RewardMix", "ScoresInParts", "load_reward", "reward_name"]

JOINTS = "joints_cam_m"  # the keyword that needs a body
RewardFunction = Callable[..., Sequence[float | None]]
ScoreList = list[float | None]


@runtime_checkable
class ScoresInParts(Protocol):
    """A scorer whose score is made of several, each kept with the group."""

    def score_parts(self, sample: Sample, hypotheses: Any) -> dict[str, ScoreList]: ...

    def combine(self, parts: Mapping[str, ScoreList]) -> ScoreList: ...


@dataclass(frozen=True)
class RewardMix:
    """A weighted sum of reward functions and scorers, a `Scorer` itself.

    Without weights all are 1. `body` poses the group once, for functions that ask for `joints_cam_m`. Raises ValueError
    when made of no function, of two under one name, of one that does not take the keywords, or of as many weights as
    there are not functions.
    """

    reward_funcs: Sequence[RewardFunction | Scorer]
    reward_weights: Sequence[float] | None = None
    normalize: bool = False
    body: Body | None = None

    def __post_init__(self) -> None:
        names = list(map(reward_name, self.reward_funcs))
        if not names:
            raise ValueError("a reward is made of at least one function or scorer, not of none")
        if len(set(names)) < len(names):
            raise ValueError(f"every reward function needs a name of its own, not {', '.join(names)}")
        if self.reward_weights is not None and len(self.reward_weights) != len(names):
            raise ValueError(f"{len(names)} reward functions take as many weights, not {self.reward_weights}")
        for function in self.reward_funcs:
            if not isinstance(function, Scorer):
                _check_signature(function, dict.fromkeys(self._keywords()))

    @property
    def name(self) -> str:
        weights = self.reward_weights or [1.0] * len(self.reward_funcs)
        terms = [f"{w:g}*{reward_name(f)}" for w, f in zip(weights, self.reward_funcs, strict=True)]
        return f"{'normalized' if self.normalize else 'raw'}({' + '.join(terms)})"

    @property
    def uses_truth(self) -> bool:
        return any(getattr(function, "uses_truth", False) for function in self.reward_funcs)

    def digest(self) -> str:
        """Of every function's text, the weights and the order of summing."""
        return hash_of(self.name, [scorer_digest(function) for function in self.reward_funcs])

    def score(self, sample: Sample, hypotheses: Any) -> ScoreList:
        """`hypotheses` are `Hypotheses`, or what a policy of another kind shows (`rl.policy_adapter`).

        Raises ValueError where a function gives another number of scores, or one that is not finite.
        """
        return self.combine(self.score_parts(sample, hypotheses))

    def score_parts(self, sample: Sample, hypotheses: Any) -> dict[str, ScoreList]:
        """What each function says, by its name."""
        known = {"sample": sample, "hypotheses": hypotheses}
        if self.body is not None:
            known[JOINTS] = self.body.joints(hypotheses.params)
        return {
            reward_name(function): _checked(
                reward_name(function),
                function.score(sample, hypotheses) if isinstance(function, Scorer) else function(**known),
                len(hypotheses),
            )
            for function in self.reward_funcs
        }

    def combine(self, parts: Mapping[str, ScoreList]) -> ScoreList:
        """One score a hypothesis from those of every function."""
        scores = torch.tensor(
            [[math.nan if s is None else s for s in row] for row in parts.values()], dtype=torch.float64
        )
        weights = torch.tensor(self.reward_weights or [1.0] * len(scores), dtype=torch.float64)
        filled = _standardised(scores) if self.normalize else _filled(scores)
        silent = scores.isnan().all(dim=0).tolist()
        mixed = (weights[:, None] * filled).sum(dim=0).tolist()
        return [None if nothing else value for nothing, value in zip(silent, mixed, strict=True)]

    def _keywords(self) -> tuple[str, ...]:
        return ("sample", "hypotheses") if self.body is None else ("sample", "hypotheses", JOINTS)


def reward_name(function: RewardFunction | Scorer) -> str:
    """A scorer's own name, or the function's. Raises ValueError for a callable that has none, as a partial."""
    name = getattr(function, "name", getattr(function, "__name__", None))
    if not isinstance(name, str):
        raise ValueError(
            f"{function!r} has no name to keep its scores under; give it one: function.name = ..."
        )
    return name


def load_reward(where: str, body: Body | None = None) -> Scorer:
    """The scorer that `MODULE:NAME` or `FILE.py:NAME` names: a `Scorer`, or a reward function made one, which with
    `body` is told the joints too, if it takes them.

    This imports, and so runs, the code that the caller names. Raises FileNotFoundError for a file, ValueError for a
    module or a name that is not there, and for a thing that cannot score.
    """
    module_name, colon, name = where.rpartition(":")
    if not (colon and module_name and name):
        raise ValueError(f"a reward is named as MODULE:NAME or FILE.py:NAME, not as {where!r}")
    module = _module(module_name)
    if not hasattr(module, name):
        told = (
            ", ".join(sorted(key for key, value in vars(module).items() if callable(value))) or "no function"
        )
        raise ValueError(f"{module_name} has no {name!r}; it has {told}")
    reward = getattr(module, name)
    if isinstance(reward, Scorer):
        return reward
    if not callable(reward):
        raise ValueError(f"{where} is neither a reward function nor a Scorer but {type(reward).__name__}")
    function = cast(RewardFunction, reward)
    return RewardMix([function], body=body if _takes_joints(function) else None)


def _filled(scores: Float64[Tensor, "funcs group"]) -> Float64[Tensor, "funcs group"]:
    """Missing scores as the mean of those that are there."""
    return torch.where(scores.isnan(), scores.nanmean(dim=1, keepdim=True).nan_to_num(0.0), scores)


def _standardised(scores: Float64[Tensor, "funcs group"]) -> Float64[Tensor, "funcs group"]:
    centred = (scores - scores.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    answered = (~scores.isnan()).sum(dim=1, keepdim=True).clamp(min=1)
    std = (centred.square().sum(dim=1, keepdim=True) / answered).sqrt()
    rounding = ROUNDING * scores.nan_to_num(0.0).abs().amax(dim=1, keepdim=True)
    return torch.where(std > rounding, centred / std, torch.zeros_like(centred))


def _checked(name: str, scores: Sequence[float | None], count: int) -> ScoreList:
    if len(scores) != count:
        raise ValueError(f"{name!r} gave {len(scores)} scores for {count} hypotheses; it must give one each")
    if not all(score is None or math.isfinite(score) for score in scores):
        raise ValueError(f"{name!r} gave {list(scores)}; a score that failed is None, never NaN")
    return [None if score is None else float(score) for score in scores]


def _check_signature(function: RewardFunction, keywords: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    if missing := _required(signature) - set(keywords):
        needs = f"; for {JOINTS} give it a body, as by body=load_body()" if JOINTS in missing else ""
        raise ValueError(
            f"the reward function {reward_name(function)!r} is called with the keywords {', '.join(keywords)}, and "
            f"asks for {', '.join(sorted(missing))} as well{needs}"
        )
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise ValueError(
            f"the reward function {reward_name(function)!r} is called with the keywords {', '.join(keywords)}, which "
            f"it does not take ({error}); let its arguments end with **kwargs"
        ) from error


def _takes_joints(function: RewardFunction) -> bool:
    arguments = inspect.signature(function).parameters
    return JOINTS in arguments or any(a.kind is a.VAR_KEYWORD for a in arguments.values())


def _required(signature: inspect.Signature) -> set[str]:
    """Arguments that it cannot be called without."""
    return {
        name
        for name, a in signature.parameters.items()
        if a.default is a.empty and a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)
    }


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _module_of_file(Path(name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the module is there, and misses one of its own
        raise ValueError(
            f"no module is called {name!r}; name an installed one or a file, as in rewards.py:f"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file of reward functions")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(cast(Any, spec))
    cast(Any, spec).loader.exec_module(module)
    return module

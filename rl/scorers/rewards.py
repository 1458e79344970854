"""Reward functions in the style of TRL, and a weighted mix of several as one `Scorer`.

    def upright(*, hypotheses, **kwargs):
        return (-hypotheses.params.global_orient[:, 0].abs()).tolist()

    scorer = RewardMix([upright, agent], reward_weights=[0.3, 1.0], normalize=True)

A function is called once per group with keyword arguments: `sample`, `hypotheses`, and `joints_cam_m` if the mix has a
body. It returns one score per hypothesis, higher being better, or None for a hypothesis that it cannot score.

| here      | symbol | equation                                                                             |
|-----------|--------|--------------------------------------------------------------------------------------|
| scores    | s_ki   | of function k for hypothesis i                                                       |
| means     | m_k    | over the hypotheses of the group that k scored; 0 if there are none                  |
| weights   | w_k    |                                                                                      |
| mixed     | s_i    | sum_k w_k (s_ki if k scored i, else m_k); None if no function scored i               |
| normalize |        | the same with (s_ki - m_k) / std_k, in the group; 0 where std_k is a rounding error  |

The names, the weighted sum and the two orders of summing and normalising are those of TRL 1.16's GRPOTrainer
(`reward_funcs`, `reward_weights`; `normalize` is its `normalize_then_sum`, GDPO, arXiv 2601.05242), with one
difference. TRL sums the scores that exist, so a missing score counts as 0, the worst score on a scale from 0 to 100.
Here it counts as the mean of its group. The two agree with `normalize`, and where a function scores all of a group or
none of it, which is TRL's own case.

Left out: TRL's normalisation of the sum over the batch, because advantages are computed from rows
(`rl.preferences.tensors`); coroutines; rewards that depend on the training step, because groups are scored before it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

from hmr.body.model import Body
from hmr.types import Sample, Scorer
from rl.scorers.identity import hash_of, scorer_digest
from rl.scorers.weighted_sum import ScoreList, weighted_sum
from rl.types import checked_scores

__all__ = ["RewardMix", "ScoresInParts", "load_reward"]

JOINTS = "joints_cam_m"  # the argument that needs a body
RewardFunction = Callable[..., Sequence[float | None]]


@runtime_checkable
class ScoresInParts(Protocol):
    """A scorer that combines several scores, each stored with the group."""

    def score_parts(self, sample: Sample, hypotheses: Any) -> dict[str, ScoreList]: ...

    def combine(self, parts: Mapping[str, ScoreList]) -> ScoreList: ...


@dataclass(frozen=True)
class RewardMix:
    """A weighted sum of reward functions and scorers, itself a `Scorer`.

    Without weights all are 1. `body` poses each group once, for functions that take `joints_cam_m`. Raises ValueError
    if there is no function, if two have the same name, if one does not accept the arguments, or if the number of
    weights differs from the number of functions.
    """

    reward_funcs: Sequence[RewardFunction | Scorer]
    reward_weights: Sequence[float] | None = None
    normalize: bool = False
    body: Body | None = None

    def __post_init__(self) -> None:
        names = list(map(reward_name, self.reward_funcs))
        if not names:
            raise ValueError("a reward needs at least one function or scorer")
        if len(set(names)) < len(names):
            raise ValueError(f"reward functions need different names, not {', '.join(names)}")
        if self.reward_weights is not None and len(self.reward_weights) != len(names):
            raise ValueError(f"{len(names)} reward functions need as many weights, not {self.reward_weights}")
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
        """Content hash of every function, the weights, the order of summing and the body."""
        body = self.body and self.body.digest()
        return hash_of(self.name, [scorer_digest(function) for function in self.reward_funcs], body)

    def score(self, sample: Sample, hypotheses: Any) -> ScoreList:
        """`hypotheses` are `Hypotheses`, or the tensor of a policy behind an adapter (`rl.policy_adapter`).

        Raises ValueError if a function returns a wrong number of scores, or one that is not finite.
        """
        return self.combine(self.score_parts(sample, hypotheses))

    def score_parts(self, sample: Sample, hypotheses: Any) -> dict[str, ScoreList]:
        """The scores of each function, by its name."""
        arguments = {"sample": sample, "hypotheses": hypotheses}
        if self.body is not None:
            arguments[JOINTS] = self.body.joints(hypotheses.params)
        return {
            reward_name(function): checked_scores(
                reward_name(function),
                function.score(sample, hypotheses) if isinstance(function, Scorer) else function(**arguments),
                len(hypotheses),
            )
            for function in self.reward_funcs
        }

    def combine(self, parts: Mapping[str, ScoreList]) -> ScoreList:
        """One score per hypothesis from the scores of all functions."""
        weights = self.reward_weights or [1.0] * len(parts)
        return weighted_sum(parts.values(), weights, self.normalize)

    def _keywords(self) -> tuple[str, ...]:
        return ("sample", "hypotheses") if self.body is None else ("sample", "hypotheses", JOINTS)


def reward_name(function: RewardFunction | Scorer) -> str:
    """The name of a scorer or function. Raises ValueError for a callable without a name, such as a partial."""
    name = getattr(function, "name", getattr(function, "__name__", None))
    if not isinstance(name, str):
        raise ValueError(
            f"{function!r} has no name, which its scores are stored under; set one: function.name = ..."
        )
    return name


def load_reward(where: str, body: Body | None = None) -> Scorer:
    """The `Scorer` or reward function at `MODULE:NAME` or `FILE.py:NAME`. A function becomes a `RewardMix`, which
    passes `joints_cam_m` if `body` is given and the function takes it.

    This imports and runs the named code. Raises FileNotFoundError for a missing file, ValueError for a missing module
    or name and for an object that cannot score.
    """
    module_name, colon, name = where.rpartition(":")
    if not (colon and module_name and name):
        raise ValueError(f"a reward must be given as MODULE:NAME or FILE.py:NAME, not {where!r}")
    module = _module(module_name)
    if not hasattr(module, name):
        names = ", ".join(sorted(key for key, value in vars(module).items() if callable(value)))
        raise ValueError(f"{module_name} has no {name!r}; it has {names or 'no function'}")
    reward = getattr(module, name)
    if isinstance(reward, Scorer):
        return reward
    if not callable(reward):
        raise ValueError(
            f"{where} is neither a reward function nor a Scorer but of type {type(reward).__name__}"
        )
    function = cast(RewardFunction, reward)
    return RewardMix([function], body=body if _takes_joints(function) else None)


def _check_signature(function: RewardFunction, keywords: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    if missing := _required(signature) - set(keywords):
        needs = f"; for {JOINTS} pass body=load_body()" if JOINTS in missing else ""
        raise ValueError(
            f"the reward function {reward_name(function)!r} is called with the arguments {', '.join(keywords)}, and "
            f"also requires {', '.join(sorted(missing))}{needs}"
        )
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise ValueError(
            f"the reward function {reward_name(function)!r} is called with the arguments {', '.join(keywords)}, which "
            f"it does not accept ({error}); its arguments must end with **kwargs"
        ) from error


def _takes_joints(function: RewardFunction) -> bool:
    arguments = inspect.signature(function).parameters
    return JOINTS in arguments or any(a.kind is a.VAR_KEYWORD for a in arguments.values())


def _required(signature: inspect.Signature) -> set[str]:
    """Arguments without a default."""
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
            raise  # the module exists, but one of its imports does not
        raise ValueError(
            f"there is no module {name!r}; give an installed one or a file, such as rewards.py:f"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path}: this file of reward functions does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(cast(Any, spec))
    cast(Any, spec).loader.exec_module(module)
    return module

"""Claims the output folder of `meshcritic align`, so that a run does not write over what another has left there.

OUT/settings.json    what a run trains by, written before anything is drawn. Not the critic, whose groups name it
                     (`rl.preferences.build`), and nothing that may change between a kill and the next run.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from common.storage.files import write_text
from common.storage.fingerprint import differences, read_fingerprint
from eval.pipelines.align_settings import AlignSettings
from hmr.body.model import body_fingerprint
from hmr.policy.policy import DiffusionPolicy
from rl.preferences.shards import SHARD_PATTERN, UNFINISHED

__all__ = ["check_folder", "claim_folder"]

RECORD = "settings.json"
GROUPS = ("round-*/groups", "update-*")
OUTPUTS = (
    "config.json",
    "checkpoint-*",
    "fit/*/*",
    "round-*/policy/*",
    *(f"{folder}/{rows}" for folder in GROUPS for rows in (SHARD_PATTERN, f"{UNFINISHED}/*")),
)


def claim_folder(policy: DiffusionPolicy, settings: AlignSettings, out: Path, images: int | None) -> None:
    """Record the run in `out`. A record without outputs is replaced: a wrong setting may be why there are none.

    images: the number of scenes; None for people, whose groups name them.

    Raises what `check_folder` raises.
    """
    check_folder(policy, settings, out, images)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RECORD, json.dumps(_settings_of_run(policy, settings, images), indent=1))


def check_folder(policy: DiffusionPolicy, settings: AlignSettings, out: Path, images: int | None) -> None:
    """Raises ValueError, with the method or the settings of the run in `out`, if another one has left something there.
    Writes nothing; arguments as in `claim_folder`."""
    wanted, recorded = _settings_of_run(policy, settings, images), read_fingerprint(out / RECORD)
    if recorded != wanted and any(path for pattern in OUTPUTS for path in out.glob(pattern)):
        why = f"it has no {RECORD}" if recorded is None else _how_it_differs(recorded, wanted)
        raise ValueError(f"{out} holds a run with other settings ({why}); use another --out")


def _how_it_differs(recorded: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Another method alone, because its training arguments are others too."""
    method = recorded.get("method")
    return str(method) if method != wanted["method"] else differences(recorded, wanted)


def _settings_of_run(policy: DiffusionPolicy, settings: AlignSettings, images: int | None) -> dict[str, Any]:
    """As JSON gives them back."""
    gradient = settings.policy_gradient
    training = settings.alignment if gradient is None else dataclasses.asdict(gradient)
    rounds = dataclasses.asdict(settings.rounds)
    del rounds["in_flight"]  # shapes nothing
    run = {
        "method": settings.method,
        # the file of replayed bodies counts by its content (`rl.rounds`)
        "training": {name: value for name, value in training.items() if name != "replay_file"},
        "fit": settings.fit,
        "rounds": rounds,
        "images": images,
        "shuffled": settings.shuffled,
        "base": settings.base,
        "motion": settings.motion and settings.motion.name,
        **body_fingerprint(settings.body),
        "policy": policy.digest(),
        "detector": policy.detector.name,
    }
    return json.loads(json.dumps(run))

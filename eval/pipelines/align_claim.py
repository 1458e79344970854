"""Claims the output folder of `meshcritic align`, so that a run does not write over what another has left there.

OUT/settings.json    what a run trains by, written before anything else. Not the critic, whose groups name it
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
from hmr.policy.policy import DiffusionPolicy
from rl.preferences.shards import SHARD_PATTERN, UNFINISHED

__all__ = ["claim_folder"]

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
    """Record the run in `out`, or find that the run recorded there is the same. A record without outputs is replaced:
    a wrong setting may be why there are none.

    images: the number of scenes; None for people, whose groups name them.

    Raises ValueError, with the method or the settings of the run that is there, if it is another.
    """
    wanted = _settings_of_run(policy, settings, images)
    recorded = read_fingerprint(out / RECORD)
    if recorded == wanted:
        return
    if any(path for pattern in OUTPUTS for path in out.glob(pattern)):
        why = f"it has no {RECORD}" if recorded is None else _how_it_differs(recorded, wanted)
        raise ValueError(f"{out} holds a run with other settings ({why}); use another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RECORD, json.dumps(wanted, indent=1))


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
        "policy": policy.digest(),
        "detector": policy.detector.name,
    }
    return json.loads(json.dumps(run))

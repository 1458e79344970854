"""Program launched by the test of several processes: `... -m tests.hmr.pretraining.launched_pretraining NOTES ARGS...`.

ARGS are those of `meshcritic pretrain`. Every process writes to NOTES/RANK.json what it drew or wrote, and one random
number and the hash of its weights at the end of each stage.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import hmr.pretraining.crop_cache
import hmr.pretraining.ema
import hmr.pretraining.encoder_training
import hmr.pretraining.policy_training
import hmr.pretraining.stages
import meshcritic

ONE_DOES = [
    ("draws", hmr.pretraining.crop_cache, "in_order"),
    ("averages", hmr.pretraining.ema, "save_file"),
    ("saves", hmr.pretraining.encoder_training, "save_compact"),
    ("saves", hmr.pretraining.policy_training, "save_compact"),
]


def main(notes: Path, arguments: list[str]) -> int:
    record: dict[str, list[Any]] = {"does": [], "noise": [], "weights": []}

    def stage_ends(module: torch.nn.Module) -> None:
        record["noise"].append(float(torch.rand(())))
        record["weights"].append(weights_of(module))

    for what, module, name in ONE_DOES:
        watch(module, name, lambda *_, what=what: record["does"].append(what))
    watch(hmr.pretraining.stages, "_synchronize", stage_ends)
    sys.argv = ["meshcritic", "pretrain", *arguments]
    try:
        meshcritic.main()
    except SystemExit as ended:
        status = ended.code
    (notes / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(record))
    return status if isinstance(status, int) else int(status is not None)


def watch(module: ModuleType, name: str, note: Callable[..., None]) -> None:
    real = getattr(module, name)

    def watched(*args: Any, **settings: Any) -> Any:
        answer = real(*args, **settings)
        note(*args)
        return answer

    setattr(module, name, watched)


def weights_of(module: torch.nn.Module) -> str:
    state = hashlib.sha256()
    for tensor in module.state_dict().values():
        state.update(tensor.detach().cpu().numpy().tobytes())
    return state.hexdigest()


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2:])
    sys.stderr.flush()
    os._exit(status)  # as in tests/rl/launched.py: torch's threads may abort a process at exit

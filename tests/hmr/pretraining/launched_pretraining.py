"""What the test of several processes launches: `python -m tests.hmr.pretraining.launched_pretraining NOTES WORDS...`.

WORDS are those of `meshcritic pretrain`.

Every process leaves in NOTES/PROCESS.json what it drew or wrote, and where its noise and its weights were as each stage
ended.
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
import hmr.pretraining.training
import meshcritic

ONE_DOES = {
    "draws": (hmr.pretraining.crop_cache, "in_order"),
    "averages": (hmr.pretraining.ema, "save_file"),
    "keeps": (hmr.pretraining.training, "_keep"),
}


def main(notes: Path, words: list[str]) -> int:
    told: dict[str, list[Any]] = {"does": [], "noise": [], "weights": []}

    def stage_ends(module: torch.nn.Module) -> None:
        told["noise"].append(float(torch.rand(())))
        told["weights"].append(weights_of(module))

    for what, (module, name) in ONE_DOES.items():
        watch(module, name, lambda *_, what=what: told["does"].append(what))
    watch(hmr.pretraining.training, "_level", stage_ends)
    sys.argv = ["meshcritic", "pretrain", *words]
    try:
        meshcritic.main()
    except SystemExit as ended:
        status = ended.code
    (notes / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))
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
    os._exit(
        status
    )  # as tests/rl/launched.py does: torch's own threads may abort a process in its last moments

"""The program that the test of several processes launches: `python -m tests.rl.launched OUT BATCH REPLAY_FILE FLOOR`.

`--fsdp` shards, `--save` saves a checkpoint half-way, `--resume DIR` resumes from one, starting with other weights.
"""

import argparse
import os
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from rl.config import GroupPreferenceConfig
from rl.trainer import GroupPreferenceTrainer
from tests.rl.toy import ToyPolicy, toy_groups


def main(
    out: Path, batch: int, replay: str, floor: float, fsdp: bool, save: bool, resume: str | None
) -> None:
    args = GroupPreferenceConfig(
        output_dir=str(out),
        max_steps=6,
        per_device_train_batch_size=batch,
        learning_rate=0.02,
        logging_steps=2,
        save_strategy="steps" if save else "no",
        save_steps=3,
        use_cpu=True,
        replay_weight=0.5,
        replay_file=replay,
        spread_weight=floor,
        **({"fsdp": True, "fsdp_config": {"auto_wrap_policy": "NO_WRAP"}} if fsdp else {}),
    )
    if fsdp:
        pretend_multi_gpu(args)
    trainer = GroupPreferenceTrainer(ToyPolicy(std=0.9 if resume else 0.5), args, toy_groups())
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(out / f"{args.world_size}-processes"))
    if trainer.is_world_process_zero():
        lines = enumerate(trainer.state.log_history)
        metrics = {f"{name}-{number}": str(value) for number, line in lines for name, value in line.items()}
        save_file({}, out / f"{args.world_size}-processes" / "log.safetensors", metadata=metrics)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def pretend_multi_gpu(args: GroupPreferenceConfig) -> None:
    """torch shards on CPUs over gloo, but accelerate uses DDP if there is no accelerator."""
    assert args.device.type == "cpu"
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def parse_arguments() -> dict:
    parser = argparse.ArgumentParser()
    for name, kind in {"out": Path, "batch": int, "replay": str, "floor": float}.items():
        parser.add_argument(name, type=kind)
    for switch in ("--fsdp", "--save"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--resume")
    return vars(parser.parse_args())


if __name__ == "__main__":
    main(**parse_arguments())
    os._exit(0)  # threads of torch abort one sharded process in twenty at interpreter shutdown

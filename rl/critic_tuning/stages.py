"""The two stages in which a critic learns, each a trainer of TRL on a LoRA adapter (arXiv 2106.09685).

| stage  | trainer             | learns from                                                                   |
|--------|---------------------|-------------------------------------------------------------------------------|
| `sft`  | `trl.SFTTrainer`    | the true answers: the format, and which fault goes with which place            |
| `grpo` | `trl.GRPOTrainer`   | its own replies and what each is worth (`rl.critic_tuning.reward`)             |

The second starts from the adapter of the first. Both leave a folder as peft saves it, which `local:FOLDER` loads.
Adapters lie on the linear layers of the language model; the eyes stay as they are, and with them everything that a
picture means.

    OUT/sft, OUT/grpo          the adapter after the stage; made_from.json, by which a second run knows it; log.json
    OUT/STAGE-HASH/            checkpoints while the stage is at work, named by what it trains, so that another run's
                               are never taken up; a killed run goes on at the last one

GRPO's replies are drawn without the grammar that holds a local model's answers at judgement (`agent.vlm.local.constrained_decoding`):
under it a reply could not be malformed, but its tokens would not be draws of the policy that the loss weighs.

Left out: choosing a checkpoint by held-out reward. A stage ends at its fixed step, and the scenes that could choose
are the ones that admit rules. TRL's trainers seed the global generators, as every `transformers.Trainer` does, and
report their use to the hub where HF_HUB_DISABLE_TELEMETRY does not forbid it; the command forbids it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import AutoConfig, PrinterCallback, TrainerCallback

from agent.vlm.local.backend import context_limit
from agent.vlm.local.model_loading import FoundModel, find_model, load_processor, load_weights
from common.fingerprint import has_fingerprint, write_fingerprint
from common.progress import Stage
from common.resume import last_whole_checkpoint
from rl.critic_tuning.config import TuningSettings, lora_config, stage_config
from rl.critic_tuning.conversations import Extent
from rl.critic_tuning.reward import spearman_reward, well_formed

__all__ = ["CriticTuning"]

REPLY_TOKENS = 256  # TRL's own max_completion_length
LOG = "log.json"
TOLD = ("loss", "mean_token_accuracy", "reward", "rewards/well_formed/mean", "frac_reward_zero_std")
Reward = Callable[..., list[float | None]]


class CriticTuning:
    """One tuning in one folder; `say` is told of what is taken up and of what TRL measures, a line each time."""

    def __init__(
        self,
        conversations: Dataset,
        settings: TuningSettings,
        out: Path,
        stage: Stage,
        say: Callable[[str], None] = lambda line: None,
        reward: Reward = spearman_reward,
    ) -> None:
        self.conversations, self.settings, self.out = conversations, settings, out
        self.stage, self.say, self.reward = stage, say, reward

    def run(self, found: FoundModel) -> FoundModel:
        """The model with the adapter of the last stage; one that it comes with already is trained further.

        What an earlier run has done is kept. Raises ValueError for settings that TRL or peft refuses, and where
        questions and replies do not fit in the model's context.
        """
        self._check_room(found)
        for name in self.settings.stages:
            self._stage(name, found)
            found = find_model(f"{found.base}+{self.out / name}")
        return found

    def _check_room(self, found: FoundModel) -> None:
        config = AutoConfig.from_pretrained(found.folder, trust_remote_code=False)
        extent, tokens = Extent.of(self.conversations), context_limit(config)
        reply = extent.longest_answer_tokens
        if "grpo" in self.settings.stages:
            reply = self.settings.grpo.get("max_completion_length", REPLY_TOKENS)
        if reply < extent.longest_answer_tokens:
            raise ValueError(
                f"replies of max_completion_length {reply} tokens cannot hold a true answer of "
                f"{extent.longest_answer_tokens}"
            )
        if (asked := extent.longest_prompt_tokens) + reply > tokens:
            raise ValueError(
                f"a question of {asked} tokens and a reply of up to {reply} do not fit in the {tokens} tokens of "
                f"{found.base}; set max_images lower"
            )

    def _stage(self, name: str, found: FoundModel) -> None:
        folder, origin = self.out / name, self._origin(name, found)
        if has_fingerprint(folder, origin):
            self.say(f"{name}: done by an earlier run, {folder}")
            return
        work = self.out / f"{name}-{hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:12]}"
        checkpoint = last_whole_checkpoint(work, unended=True)
        if checkpoint:
            self.say(f"{name}: taken up at {Path(checkpoint).name.replace('-', ' ')}")
        with warnings.catch_warnings():
            # TRL 1.16 calls transformers by names that 5.23 has replaced
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            trainer = self._sft(found, work) if name == "sft" else self._grpo(found, work)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_Progress(name, self.stage, self.say))
            trainer.train(resume_from_checkpoint=checkpoint)
        _save(trainer, folder, origin, found.base)
        shutil.rmtree(work)

    def _sft(self, found: FoundModel, work: Path) -> Any:
        from trl.trainer.sft_trainer import SFTTrainer

        model = load_weights(found, trainable=True)
        return SFTTrainer(
            model=model,
            args=stage_config("sft", self.settings, work),
            train_dataset=self.conversations.select_columns(["prompt", "images", "completion"]),
            processing_class=load_processor(found),
            peft_config=self._lora(model, found),
        )

    def _grpo(self, found: FoundModel, work: Path) -> Any:
        from trl.trainer.grpo_trainer import GRPOTrainer

        model = load_weights(found, trainable=True)
        rewards: list[Any] = [self.reward, well_formed]  # in the order of their weights in `stage_config`
        return GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=stage_config("grpo", self.settings, work),
            train_dataset=self.conversations.select_columns(["prompt", "images", "labels", "errors_mm"]),
            processing_class=load_processor(found),
            peft_config=self._lora(model, found),
        )

    def _lora(self, model: Any, found: FoundModel) -> Any:
        """A new adapter; None where the model comes with one."""
        if found.adapter is not None:
            return None
        decoder = {id(layer) for layer in model.get_decoder().modules() if isinstance(layer, nn.Linear)}
        targets = [name for name, layer in model.named_modules() if id(layer) in decoder]
        return lora_config(self.settings, targets)

    def _origin(self, name: str, found: FoundModel) -> dict[str, Any]:
        """What shapes the adapter of a stage."""
        told = self.conversations.remove_columns("images").to_list()
        return {
            "stage": name,
            "model": found.base,
            "revision": found.revision,
            "conversations": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
            "lora": dict(self.settings.lora),
            "arguments": dict(getattr(self.settings, name)),
            "seed": self.settings.seed,
        }


def _save(trainer: Any, folder: Path, origin: Mapping[str, Any], base: str) -> None:
    """In one piece: a folder of this name is a finished stage."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.peft_config["default"].base_model_name_or_path = base  # the name, not where this machine keeps it
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, selected_adapters=["default"])
    (partial / LOG).write_text(json.dumps(trainer.state.log_history, indent=1))
    write_fingerprint(partial, origin)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class _Progress(TrainerCallback):
    """Ticks after every step, and says what TRL measured as often as it is logged."""

    def __init__(self, name: str, stage: Stage, say: Callable[[str], None]) -> None:
        self.name, self.stage, self.say = name, stage, say
        self.tick: Callable[[int], None] = lambda done: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick = self.stage(f"{self.name}: {state.max_steps} steps", state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        told = [f"{key} {float(logs[key]):.3f}" for key in TOLD if logs.get(key) is not None]
        if told:
            self.say(f"{self.name} step {state.global_step}: {', '.join(told)}")

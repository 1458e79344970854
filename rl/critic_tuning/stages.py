"""The two stages of critic tuning, each a TRL trainer on a LoRA adapter (arXiv 2106.09685).

| stage  | trainer             | training data                                                                  |
|--------|---------------------|--------------------------------------------------------------------------------|
| `sft`  | `trl.SFTTrainer`    | the true answers: the format, and which faults go with which rank              |
| `grpo` | `trl.GRPOTrainer`   | the model's own replies and their rewards (`rl.critic_tuning.reward`)          |

The second stage starts from the adapter of the first. Both save a folder in peft's format, which `local:FOLDER` loads.
Adapters are placed on the linear layers of the language model; the vision encoder does not change.

    OUT/sft, OUT/grpo          the adapter after the stage; made_from.json, by which a second run finds it; log.json
    OUT/STAGE-HASH/            checkpoints during the stage, named by its inputs, so that those of another run are not
                               used; a killed run continues at the last one

GRPO samples replies without the grammar that constrains a local model in use
(`agent.vlm.local.constrained_decoding`). With the grammar no reply could be malformed, but its tokens would not be
samples of the policy that the loss weights.

Left out: choosing a checkpoint by held-out reward. A stage ends at its fixed step, because the scenes that could be
used for the choice decide on the admission of rules. TRL's trainers seed the global generators, as every
`transformers.Trainer` does, and report their use to the hub unless HF_HUB_DISABLE_TELEMETRY is set; the command sets
it.
"""

from __future__ import annotations

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
from common.finite_callback import FiniteWeights
from common.progress import Stage
from common.storage.files import PathLike, atomic_folder
from common.storage.fingerprint import digest, has_fingerprint, write_fingerprint
from common.storage.resume import last_whole_checkpoint
from rl.critic_tuning.config import TuningSettings, lora_config, stage_config
from rl.critic_tuning.conversations import ConversationStats
from rl.critic_tuning.reward import spearman_reward, well_formed

__all__ = ["CriticTuning"]

REPLY_TOKENS = 256  # TRL's own max_completion_length
LOG = "log.json"
REPORTED = ("loss", "mean_token_accuracy", "reward", "rewards/well_formed/mean", "frac_reward_zero_std")
Reward = Callable[..., list[float | None]]


class CriticTuning:
    """One tuning in one folder. `report` receives lines about skipped and resumed stages and about TRL's metrics."""

    def __init__(
        self,
        conversations: Dataset,
        settings: TuningSettings,
        out: PathLike,
        stage: Stage,
        report: Callable[[str], None] = lambda line: None,
        reward: Reward = spearman_reward,
    ) -> None:
        self.conversations, self.settings, self.out = conversations, settings, Path(out)
        self.stage, self.report, self.reward = stage, report, reward

    def run(self, found: FoundModel) -> FoundModel:
        """The model with the adapter of the last stage. An adapter that the model already has is trained further.

        Stages finished by an earlier run are skipped. Raises ValueError for settings that TRL or peft rejects, and if
        questions and replies do not fit in the context of the model.
        """
        self._check_length(found)
        for name in self.settings.stages:
            self._stage(name, found)
            found = find_model(f"{found.base}+{self.out / name}")
        return found

    def _check_length(self, found: FoundModel) -> None:
        config = AutoConfig.from_pretrained(found.folder, trust_remote_code=False)
        stats, tokens = ConversationStats.of(self.conversations), context_limit(config)
        reply = stats.longest_answer_tokens
        if "grpo" in self.settings.stages:
            reply = self.settings.grpo.get("max_completion_length", REPLY_TOKENS)
        if reply < stats.longest_answer_tokens:
            raise ValueError(
                f"replies of max_completion_length {reply} tokens cannot hold a true answer of "
                f"{stats.longest_answer_tokens}"
            )
        if (prompt := stats.longest_prompt_tokens) + reply > tokens:
            raise ValueError(
                f"a question of {prompt} tokens and a reply of up to {reply} do not fit in the {tokens} tokens of "
                f"{found.base}; set max_images lower"
            )

    def _stage(self, name: str, found: FoundModel) -> None:
        folder, fingerprint = self.out / name, self._fingerprint(name, found)
        if has_fingerprint(folder, fingerprint):
            self.report(f"{name}: done by an earlier run, {folder}")
            return
        work = self.out / f"{name}-{digest(json.dumps(fingerprint), length=12)}"
        checkpoint = last_whole_checkpoint(work, unended=True)
        if checkpoint:
            self.report(f"{name}: resumed at {Path(checkpoint).name.replace('-', ' ')}")
        with warnings.catch_warnings():
            # TRL 1.16 uses names of transformers that 5.23 has replaced
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            trainer = self._sft(found, work) if name == "sft" else self._grpo(found, work)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(FiniteWeights())
            trainer.add_callback(_ProgressCallback(name, self.stage, self.report))
            trainer.train(resume_from_checkpoint=checkpoint)
        _save(trainer, folder, fingerprint, found.base)
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
        """The configuration of a new adapter; None if the model has one."""
        if found.adapter is not None:
            return None
        decoder = {id(layer) for layer in model.get_decoder().modules() if isinstance(layer, nn.Linear)}
        targets = [name for name, layer in model.named_modules() if id(layer) in decoder]
        return lora_config(self.settings, targets)

    def _fingerprint(self, name: str, found: FoundModel) -> dict[str, Any]:
        """Everything that the adapter of a stage depends on."""
        rows = self.conversations.remove_columns("images").to_list()
        return {
            "stage": name,
            "model": found.base,
            "revision": found.revision,
            "conversations": digest(json.dumps(rows)),
            "lora": dict(self.settings.lora),
            "arguments": dict(getattr(self.settings, name)),
            "seed": self.settings.seed,
        }


def _save(trainer: Any, folder: Path, fingerprint: Mapping[str, Any], base: str) -> None:
    """Save atomically: a folder of this name is a finished stage."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.peft_config["default"].base_model_name_or_path = base  # the name, not the path in the local cache
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial, selected_adapters=["default"])
        (partial / LOG).write_text(json.dumps(trainer.state.log_history, indent=1))
        write_fingerprint(partial, fingerprint)
        shutil.rmtree(folder, ignore_errors=True)


class _ProgressCallback(TrainerCallback):
    """Ticks after every step and reports TRL's metrics at every log."""

    def __init__(self, name: str, stage: Stage, report: Callable[[str], None]) -> None:
        self.name, self.stage, self.report = name, stage, report
        self.tick: Callable[[int], None] = lambda done: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick = self.stage(f"{self.name}: {state.max_steps} steps", state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        metrics = [f"{key} {float(logs[key]):.3f}" for key in REPORTED if logs.get(key) is not None]
        if metrics:
            self.report(f"{self.name} step {state.global_step}: {', '.join(metrics)}")

"""Runs one step of each stage of critic tuning on a tiny model, so that invalid settings fail before anything is drawn.

TRL and peft check some settings when a stage is configured, others when its trainer is created (`lora: {r: 0}`) or
only in its first loss (`loss_type: bogus`), which for the second stage is after the first has been trained. A list of
our own would be out of date with their next release, so the step is run, as in `rl.preflight`. The model is a language
model of a few thousand random weights, without pictures; what depends on the size of the real one (memory, lengths) is
not found.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback

from rl.critic_tuning.config import TuningSettings, lora_config, stage_config

__all__ = ["run_preflight"]

WORDS = ("<pad>", "<end>", "question", "answer")
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
REPLY_TOKENS = 4
# what would leave files, processes or long runs behind; a server that generates replies is not started
HARMLESS = {
    "max_steps": 1, "save_strategy": "no", "report_to": "none", "push_to_hub": False, "dataloader_num_workers": 0,
    "load_best_model_at_end": False,
}  # fmt: skip


def run_preflight(settings: TuningSettings) -> None:
    """Raises ValueError, with the name of the stage, for settings that TRL or peft rejects. No file is left."""
    for name in settings.stages:
        # the caller may use the global generator
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            _no_progress_bars(),
            tempfile.TemporaryDirectory() as work,
        ):
            warnings.simplefilter("ignore")  # training itself will repeat them
            try:
                _train(name, settings, Path(work))
            except Exception as error:  # four libraries raise many types
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"training refuses the settings of {name} or lora: {reason}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Those of `datasets`, for a few rows of no interest."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _train(name: str, settings: TuningSettings, work: Path) -> None:
    model, tokenizer = _tiny_model()
    arguments = stage_config(name, _harmless(name, settings), work)
    targets = [layer for layer, module in model.model.named_modules() if isinstance(module, nn.Linear)]
    common: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "processing_class": tokenizer,
        "peft_config": lora_config(settings, targets),
    }
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps
    prompt = [{"role": "user", "content": "question"}]
    if name == "sft":
        from trl.trainer.sft_trainer import SFTTrainer

        answer = [{"role": "assistant", "content": "answer"}]
        data = Dataset.from_list([{"prompt": prompt, "completion": answer}] * rows)
        trainer: Any = SFTTrainer(train_dataset=data, **common)
    else:
        from trl.trainer.grpo_trainer import GRPOTrainer

        data = Dataset.from_list([{"prompt": prompt}] * max(rows, arguments.generation_batch_size))
        rewards: list[Any] = [_first_reward, _second_reward]  # as many as in a real stage
        trainer = GRPOTrainer(train_dataset=data, reward_funcs=rewards, **common)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _harmless(name: str, settings: TuningSettings) -> TuningSettings:
    """The settings for one short step."""
    given = dict(getattr(settings, name))
    changed = {**given, **HARMLESS}
    if name == "grpo":
        changed["use_vllm"] = False
        changed["max_completion_length"] = min(given.get("max_completion_length", REPLY_TOKENS), REPLY_TOKENS)
    return TuningSettings(
        **{**vars(settings), name: {key: value for key, value in changed.items() if key != "save_steps"}}
    )


def _first_reward(completions: list[Any], **columns: Any) -> list[float]:
    return [float(index % 2) for index in range(len(completions))]  # equal rewards would give no loss


def _second_reward(completions: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def _tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="answer"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config), tokenizer

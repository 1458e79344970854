"""`meshcritic tune-critic`: fine-tunes a local vision-language model on explored cases."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.backend_flags import BackendSet
from cli.console import print_json, print_message, stages
from cli.options import (
    MODELS,
    WORKERS,
    BasePolicy,
    Json,
    PolicyOrBase,
    SceneBodyFile,
    Seed,
    body_option,
    config_file,
    output_folder,
    policy_folder,
)
from common.storage.files import CONFIGS
from common.storage.locks import single_run

if TYPE_CHECKING:
    from rl.critic_tuning.conversations import ConversationStats

__all__ = ["tune_critic"]

STAGES = {"both": ("sft", "grpo"), "sft": ("sft",), "grpo": ("grpo",)}

Model = Annotated[
    str,
    typer.Argument(
        help="Vision-language model, a name on the hub or a folder; MODEL+FOLDER continues training the adapter in "
        "FOLDER."
    ),
]
ExploredMemory = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=MODELS,
        help="Memory of an explored critic, such as runs/explore/memory; its cases are the training data.",
    ),
]
Adapters = Annotated[Path, output_folder("Folder for the adapters, the scenes, the questions and the log.")]
Stages = Annotated[
    str, typer.Option(help="Training stage: sft (on true scores), grpo (on rewards), or both in this order.")
]
TuningArguments = Annotated[
    Path | None, config_file("YAML file of peft and TRL arguments. Default: configs/tune_critic.yaml.")
]
Calibration = Annotated[
    int,
    typer.Option(min=4, help="Number of scenes of the calibration split that the memory was explored on."),
]
OnlyPrepare = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Prepare the questions, print their number and lengths in tokens, and stop."
    ),
]


def tune_critic(
    model: Model,
    memory: ExploredMemory,
    out: Adapters = Path("runs/critic"),
    stage: Stages = "both",
    config: TuningArguments = None,
    calibration: Calibration = 128,
    settings: BackendSet = None,
    dry_run: OnlyPrepare = False,
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    body: SceneBodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a local vision-language model with LoRA on explored cases, as a critic.

    Supervised fine-tuning (TRL's SFT) is followed by GRPO, with the rank agreement with the true errors as the reward.
    The same command continues an interrupted run.

    Example: `meshcritic tune-critic Qwen/Qwen3-VL-4B-Instruct --memory runs/explore/memory --out runs/critic`
    """
    if stage not in STAGES:
        raise ValueError(f"--stage is one of {', '.join(STAGES)}, not {stage!r}")
    from agent.vlm.local.backend import LocalSettings
    from agent.vlm.local.model_loading import find_model
    from agent.vlm.settings import parse_settings, read_settings
    from eval.pipelines.critic_tuning import prepare_training_cases
    from eval.pipelines.critic_tuning import tune_critic as tune
    from hmr.policy.checkpoint import load_policy
    from rl.critic_tuning.config import read_tuning

    local = read_settings(LocalSettings, "local", parse_settings(settings or ()))
    tuning = read_tuning(config or CONFIGS / "tune_critic.yaml", stages=STAGES[stage], seed=seed)
    found, sampler = find_model(model), load_policy(policy_folder(policy, base))
    with single_run(out), stages() as progress:
        training_cases = prepare_training_cases(
            found, memory, sampler,
            settings=tuning, local=local, out=out, stage=progress, base=base, calibration=calibration, body=body,
            workers=WORKERS,
        )  # fmt: skip
        _print_stats(training_cases.stats)
        if dry_run:
            if as_json:
                print_json(dataclasses.asdict(training_cases.stats))
            return
        tuned = tune(
            found,
            training_cases,
            settings=tuning,
            local=local,
            out=out,
            stage=progress,
            print_line=print_message,
        )
    if as_json:
        print((out / "tuning.json").read_text())
        return
    adapter = tuned.found.adapter
    print_message(f"to use it: meshcritic critique photo.jpg --backend local:{adapter}{body_option(body)}")


def _print_stats(stats: ConversationStats) -> None:
    print_message(
        f"{stats.questions} questions about {stats.cases} explored cases, with {stats.images} pictures; tokens per "
        f"prompt: mean {stats.mean_prompt_tokens}, maximum {stats.longest_prompt_tokens}; per true answer: maximum "
        f"{stats.longest_answer_tokens}"
    )

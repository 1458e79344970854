"""Both stages on real model classes with tiny random weights: training, loading by `local:`, resuming after a kill."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agent.prompts.answers import Verdict, keyed_by_label
from agent.vlm import load_backend
from agent.vlm.local.model_loading import find_model
from rl.critic_tuning.config import TuningSettings, read_tuning
from rl.critic_tuning.reward import MALFORMED, spearman_reward
from tests.agent.vlm.tiny_vlm import FAMILIES, tiny_qwen3_vl
from tests.rl.critic_tuning.tuning_run import SETTINGS, brief_questions, run, write_questions

ROOT = Path(__file__).parents[3]


def logged(folder: Path, key: str) -> list[float]:
    return [entry[key] for entry in json.loads((folder / "log.json").read_text()) if key in entry]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module", params=FAMILIES)
def tuned(request, tmp_path_factory):
    """Model, folder of the run, and the model with its last adapter."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "model").mkdir()
    model = FAMILIES[request.param](folder / "model")
    return model, folder / "run", run(model, write_questions(model, folder / "q.parquet"), folder / "run")


@pytest.mark.slow
def test_sft_learns_the_true_answers_and_grpo_the_reward(tuned):
    _, out, _ = tuned
    losses = logged(out / "sft", "loss")
    assert losses[-1] < losses[0] - 0.05  # a random head of this size cannot do much better
    assert len(logged(out / "grpo", "reward")) == 4
    assert logged(out / "grpo", "rewards/well_formed/mean") == [0.0] * 4
    before, after = weights(out / "sft"), weights(out / "grpo")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_adapter_is_of_the_language_model_alone(tuned):
    model, out, _ = tuned
    names = list(weights(out / "grpo"))
    assert any("q_proj" in name for name in names)
    assert not any(word in name for word in ("vision", "visual", "connector", "lm_head") for name in names)
    config = json.loads((out / "grpo" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model.resolve())
    assert sorted(path.name for path in out.iterdir()) == ["grpo", "sft"]  # no checkpoints are left behind


@pytest.mark.slow
def test_the_adapter_judges_as_a_local_backend(tuned):
    model, out, found = tuned
    backend = load_backend(f"local:{out / 'grpo'}", comment_chars=8, max_new_tokens=800)
    assert backend.name == f"local:{model}+grpo"
    assert backend.revision.startswith(found.revision)
    question = brief_questions()[0]
    verdicts = keyed_by_label("score", Verdict, question.labels)
    schema = {**verdicts.model_json_schema(), "title": "score"}
    verdicts.model_validate_json(backend.generate(question.parts, schema, 0).text)


@pytest.mark.slow
def test_a_second_run_skips_finished_stages_unless_a_setting_changes(tuned, tmp_path):
    model, out, found = tuned
    lines: list[str] = []
    questions, again = out.parent / "q.parquet", shutil.copytree(out, tmp_path / "again")
    assert run(model, questions, again, say=lines.append).revision == found.revision
    done = "done by an earlier run"
    assert lines == [f"{stage}: {done}, {again / stage}" for stage in ("sft", "grpo")]
    other = replace(SETTINGS, stages=("sft",), seed=1, sft={**SETTINGS.sft, "max_steps": 1})
    assert run(model, questions, again, other).revision != find_model(f"{model}+{out / 'sft'}").revision
    assert len(logged(again / "sft", "loss")) == 1


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_adapter(tmp_path):
    (tmp_path / "model").mkdir()
    model = tiny_qwen3_vl(tmp_path / "model")
    questions = write_questions(model, tmp_path / "q.parquet")
    command = [
        sys.executable,
        "-m",
        "tests.rl.critic_tuning.tuning_run",
        model,
        questions,
        tmp_path / "cut",
        "3",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*map(str, command)], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout
        assert any(line == "stopped\n" for line in process.stdout)
        process.kill()
    lines: list[str] = []
    run(model, questions, tmp_path / "cut", say=lines.append)
    assert lines[0].startswith("sft: done by an earlier run")
    assert lines[1] == "grpo: resumed at checkpoint 2"
    run(model, questions, tmp_path / "whole")
    cut, whole = (weights(tmp_path / name / "grpo") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    assert logged(tmp_path / "cut" / "grpo", "reward") == logged(tmp_path / "whole" / "grpo", "reward")


@pytest.mark.slow
def test_replies_of_random_weights_are_malformed(tmp_path):
    (tmp_path / "model").mkdir()
    model = tiny_qwen3_vl(tmp_path / "model")
    questions = write_questions(model, tmp_path / "q.parquet")
    settings = replace(SETTINGS, stages=("grpo",), grpo={**SETTINGS.grpo, "max_steps": 1})
    run(model, questions, tmp_path / "run", settings, reward=spearman_reward)
    assert logged(tmp_path / "run" / "grpo", "reward") == [MALFORMED]


def test_questions_that_do_not_fit_are_refused_before_loading(tmp_path):
    model = tiny_qwen3_vl(tmp_path)
    questions = write_questions(model, tmp_path / "q.parquet")
    for length, reason in ((20_000, "do not fit in the 16384 tokens"), (9, "cannot hold a true answer")):
        settings = replace(SETTINGS, grpo={"max_completion_length": length})
        with pytest.raises(ValueError, match=reason):
            run(model, questions, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_strings_are_converted_to_numbers(tmp_path):
    (tmp_path / "strings.yaml").write_text(
        "sft: {learning_rate: 1e-4, max_steps: '4'}\ngrpo: {scale_rewards: false}"
    )
    settings = read_tuning(tmp_path / "strings.yaml")
    assert settings.sft == {"learning_rate": 1e-4, "max_steps": 4}
    assert settings.grpo == {"scale_rewards": False}  # TRL takes it, whatever its annotation says


def test_an_empty_section_changes_nothing(tmp_path):
    (tmp_path / "plain.yaml").write_text("sft:\nlabel_orders: 3")
    assert read_tuning(tmp_path / "plain.yaml") == TuningSettings(label_orders=3)


def test_the_shipped_recipe_is_valid():
    settings = read_tuning(ROOT / "configs" / "tune_critic.yaml", seed=3)
    assert (settings.seed, settings.stages) == (3, ("sft", "grpo"))
    assert settings.grpo["num_generations"] >= 2


BAD_RECIPES = {
    "an unknown section": ("dpo: {}", "unknown dpo; allowed are grpo, label_orders, lora, sft$"),
    "an unknown field": (
        "grpo: {learning_rat: 1}",
        "grpo takes the fields of GRPOConfig .* not learning_rat",
    ),
    "a field that is the command's": ("sft: {trust_remote_code: true}", "not trust_remote_code"),
    "no mapping": ("- sft", "a mapping of fields, not a list$"),
    "a section that is none": ("lora: 16", "lora takes the fields of LoraConfig .* not 16"),
    "orders that are no number": (
        "label_orders: many",
        "label_orders takes a whole number, not 'many'",
    ),
    "no orders": ("label_orders: 0", "label_orders must be at least 1, not 0"),
    "a rate that is no number": (
        "sft: {learning_rate: fast}",
        "sft: learning_rate takes a number, not 'fast'",
    ),
    "half a step": ("grpo: {max_steps: 2.5}", "grpo: max_steps takes a whole number, not 2.5"),
    "half a rank": ("lora: {r: 2.5}", "lora: r takes a whole number, not 2.5"),
    "a switch that is none": ("sft: {packing: maybe}", "sft: packing takes true or false, not 'maybe'"),
    "a batch that holds no whole group": (
        "grpo: {num_generations: 8, per_device_train_batch_size: 3}",
        r"grpo: generation_batch_size \(3\) must be divisible by num_generations \(8\)",
    ),
    "one reply a question": ("grpo: {num_generations: 1}", "grpo: GRPO requires at least 2 generations"),
    "no reply": ("grpo: {num_generations: 0}", "grpo: .*zero"),
    "an optimizer that is none": ("sft: {optim: sgdd}", "sft: sgdd is not a valid OptimizerNames"),
    "a tracker that is none": ("grpo: {report_to: foo}", "grpo: foo is not supported"),
    "an evaluation": ("grpo: {eval_strategy: steps, eval_steps: 2}", "grpo: no question is held out"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_errors_of_a_recipe(case, tmp_path):
    text, reason = BAD_RECIPES[case]
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_tuning(tmp_path / "bad.yaml")


@pytest.mark.parametrize(("stages", "given"), [((), "none"), (("dpo",), "dpo"), (("sft", "ppo"), "sft, ppo")])
def test_an_unknown_stage_is_refused(stages, given):
    with pytest.raises(ValueError, match=f"stages must be some of sft, grpo, not {given}$"):
        TuningSettings(stages=stages)


def test_an_adapter_is_found_with_its_model(tmp_path):
    (tmp_path / "model").mkdir()
    model = tiny_qwen3_vl(tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter_model.safetensors").touch()
    (tmp_path / "run" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    assert find_model(str(tmp_path / "run")) == find_model(f"{model}+{tmp_path / 'run'}")

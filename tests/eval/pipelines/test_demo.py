"""The demo on few scenes, and a test that alignment does not depend on the truth of wild images."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from agent.agent import CritiqueAgent
from agent.default import default_agent, open_default_memory
from common.progress import Stage
from eval.critics.exploration import Exploration
from eval.pipelines.demo import VARIANTS, Demo, DemoSettings, read_demo_settings
from eval.pipelines.demo_outputs import DemoPage
from eval.report.run import Progress
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.store import make_scenes, read_samples
from rl.config import GroupPreferenceConfig
from rl.preferences.build import build_preferences, load_preferences
from rl.trainer import align

ALIGNMENT = {"loss_type": "weighted", "max_steps": 3, "per_device_train_batch_size": 2}
SMALL = DemoSettings(
    calibration_images=4,
    align_images=4,
    test_images=2,
    group_size=5,
    num_samples=7,
    seeds=(0, 1),
    shown_cases=1,
    alignment=ALIGNMENT,
)
R = {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "spread_visible_mm", "spread_occluded_mm"}


def silent(title: str, total: int):
    return lambda done, note="": None


@pytest.fixture
def policy_folder(tiny_policy: DiffusionPolicy, tmp_path: Path) -> Path:
    tiny_policy.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.slow
def test_the_whole_loop_in_miniature(policy_folder: Path, tmp_path: Path):
    stages: list[tuple[int, int]] = []
    report = tmp_path / "run" / "report.html"
    with Demo(tmp_path / "run", SMALL, silent, policy_folder) as run:
        page = DemoPage(run)

        def begin(progress: Progress) -> None:
            page.begin(progress)
            assert f"Stage {progress.number} of {progress.count} is running" in report.read_text()
            assert ('id="case-data-0"' in report.read_text()) == (
                progress.number > 2
            )  # after the exploration
            stages.append((progress.number, progress.count))

        _, metrics = page.finish(run.run(begin), 1.0)
    assert stages == [(number, 20) for number in range(1, 21)]  # 2, and for each seed 1 + 3 + 5
    assert not metrics["reused"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert set(metrics["seeds"]) == {"0", "1"}
    for seed in metrics["seeds"].values():
        assert set(seed) == {*VARIANTS, "critic"}
        assert all(set(seed[variant]) == R for variant in VARIANTS)
        assert set(seed["base"]["mpjpe_mm"]) == {"min5", "min7", "mean", "pick5", "hyp0", "averaged"}
        assert set(seed["critic"]) == {"srcc", "krcc", "plcc"}
    first = metrics["seeds"]["0"]
    others = set(VARIANTS) - {"narrowed"}  # which is the base, if the aligned policy has nearly its spread
    assert len({first[variant]["mpjpe_mm"]["mean"] for variant in others}) == len(others)
    assert set(metrics["recovered"]) == {"narrowed", "aligned", "shuffled"}
    assert "is running" not in report.read_text()
    assert report.read_text().count('id="case-data-') == SMALL.shown_cases
    nodes = [json.loads(line)["node"] for line in (tmp_path / "run" / "trace.jsonl").read_text().splitlines()]
    assert {"render_views", "measure_evidence", "retrieve_rules", "retrieve_prototypes", "score"} <= set(
        nodes
    )

    with Demo(tmp_path / "run", SMALL, silent, policy_folder) as again:
        _, repeated = DemoPage(again).finish(again.run(), 1.0)
    # scenes, exploration, and for each seed: groups, three policies, five evaluations
    assert len(repeated["reused"]) == 4 + 1 + 2 * (1 + 3 + 5)
    assert repeated["seeds"] == metrics["seeds"]


def test_the_photographs_are_found_beside_the_file(tmp_path: Path):
    (tmp_path / "demo.yaml").write_text("{photos: pictures}")
    assert read_demo_settings(tmp_path / "demo.yaml").photos == tmp_path / "pictures"
    shipped = read_demo_settings(Path(__file__).parents[3] / "configs" / "demo.yaml")
    assert shipped.photos is not None
    assert list(shipped.photos.glob("*.jpg"))


def test_a_remote_host_is_named_before_anything_is_sent(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    explored: list[str] = []

    def explore(exploration: Exploration, agent: CritiqueAgent, stage: Stage) -> None:
        assert "photographs and renderings of people are sent to far.invalid\n" in capsys.readouterr().err
        explored.append(agent.backend.name)

    monkeypatch.setattr(Exploration, "run", explore)
    settings = dataclasses.replace(SMALL, backend="openai:m@http://far.invalid/v1")
    scenes = make_scenes(tmp_path / "scenes", WILD, 2, 4)
    with Demo(tmp_path / "run", settings, silent, policy_folder) as run:
        run._explored(scenes)
    assert explored == ["openai:m@http://far.invalid/v1"]


@pytest.mark.slow
def test_a_run_refuses_another_policy_memory(
    policy_folder: Path, tiny_policy: DiffusionPolicy, tmp_path: Path
):
    settings = dataclasses.replace(SMALL, calibration_images=4, align_images=2, test_images=1, seeds=(0,))
    with Demo(tmp_path / "run", settings, silent, policy_folder) as run:
        run.run()
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)
    tiny_policy.save_pretrained(tmp_path / "other")
    with (
        pytest.raises(ValueError, match="remove it"),
        Demo(tmp_path / "run", settings, silent, tmp_path / "other") as run,
    ):
        run.run()


def learn(policy: DiffusionPolicy, body: Body, scenes: Path, out: Path) -> dict[str, bytes]:
    """Groups, scores and trained weights of wild images, as bytes."""
    with open_default_memory(out / "memory", policy, frozen=False) as memory:
        agent = default_agent(policy, body, memory)
        groups = build_preferences(policy, agent, read_samples(scenes), out / "groups", group_size=3)
    arguments = GroupPreferenceConfig(output_dir=str(out / "trainer"), use_cpu=True, **ALIGNMENT)
    align(policy, load_preferences(groups), arguments).save_pretrained(out / "policy")
    files = [*sorted(groups.glob("*.parquet")), out / "policy" / "model.safetensors"]
    return {path.name: path.read_bytes() for path in files}


def test_truth_cannot_leak(tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path):
    """With the truth of the wild images corrupted, everything learned from them is the same to the byte."""
    honest = make_scenes(tmp_path / "honest", WILD, 4, 2)
    corrupt = Path(shutil.copytree(honest, tmp_path / "corrupt"))
    (corrupt / "truth.parquet").write_bytes(b"\x00" * 1000)
    before = learn(tiny_policy, body, honest, tmp_path / "a")
    after = learn(tiny_policy, body, corrupt, tmp_path / "b")
    assert len(before) == 2
    assert before == after

"""Learning curves as SVG."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.report.curves import write_alignment_curves, write_curves
from rl.monitoring.training_log import LOG, read_logs

SVG = "{http://www.w3.org/2000/svg}"


def test_a_stage_is_a_chart_with_two_lines(tmp_path: Path):
    log = [{"step": 100 * k, "loss": str(3.0 - k), "grad_norm": "1"} for k in range(3)]
    held_out = [{"step": 200, "eval_loss": "1.5"}]
    history = {"recipe": {}, "estimate": {"log": log + held_out}, "denoiser": {"log": log}}
    (tmp_path / "training.json").write_text(json.dumps(history))
    root = ElementTree.parse(write_curves(tmp_path)).getroot()
    panels = root.findall(f"{SVG}g")
    assert len(panels) == 2
    lines = [line.get("points") or "" for line in panels[0].findall(f"{SVG}polyline")]
    assert [len(line.split()) for line in lines] == [3, 1]
    # steps 0, 100, 200 over the panel's 46 to 408 px: the middle one at 227
    assert lines[0].split()[1].startswith("227.0,")


def test_three_charts_per_row(tmp_path: Path):
    history = {str(k): {"log": [{"step": 1, "loss": 1.0}]} for k in range(4)}
    (tmp_path / "training.json").write_text(json.dumps(history))
    places = [
        panel.get("transform")
        for panel in ElementTree.parse(write_curves(tmp_path)).getroot().findall(f"{SVG}g")
    ]
    assert places == ["translate(0 0)", "translate(420 0)", "translate(840 0)", "translate(0 260)"]


def test_a_folder_without_training_json_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"training\.json"):
        write_curves(tmp_path)


def test_an_alignment_is_a_row_and_a_metric_without_values_an_empty_chart(tmp_path: Path):
    broken = [
        {"step": step, "kl": 0.0, "denoise_loss/pos": step, "denoise_loss/neg": 2 * step} for step in (0, 10)
    ]
    broken.append({"step": 5, "kl": float("inf"), "denoise_loss/pos": float("nan")})
    root = ElementTree.parse(
        write_alignment_curves(tmp_path / "c.svg", {"good": [], "broken": broken})
    ).getroot()
    charts = root.findall(f"{SVG}g")
    drawn = [[line.get("points") for line in chart.findall(f"{SVG}polyline")] for chart in charts]
    assert [len(lines) for lines in drawn] == [0, 0, 0, 0, 2, 2, 0, 0]
    worse, better = drawn[4]
    assert worse == "46.0,152.0 258.0,28.0"  # 0 to 20 from the foot of the chart to its top
    assert better == "46.0,152.0 258.0,90.0"
    assert drawn[5] == ["", "46.0,152.0 258.0,152.0"]


def test_read_logs_returns_the_runs_own_log_or_its_rounds_in_order(tmp_path: Path):
    assert read_logs(tmp_path) == {}
    for number in (10, 2):
        folder = tmp_path / f"round-{number}" / "policy"
        folder.mkdir(parents=True)
        (folder / LOG).write_text(json.dumps([{"step": number}]))
    assert read_logs(tmp_path, "two") == {"two, round 2": [{"step": 2}], "two, round 10": [{"step": 10}]}
    (tmp_path / LOG).write_text("[]")
    assert read_logs(tmp_path, "one") == {"one": []}
    assert write_alignment_curves(tmp_path / "none.svg", {}).exists()


def test_a_policy_gradient_has_charts_of_its_reward_and_its_ratios(tmp_path: Path):
    log = [
        {"step": step, "reward": -9.0 + step, "kl": 0.1, "ratio/std": 0.2, "clip_ratio/region_mean": 0.1}
        for step in (1, 2)
    ]
    (tmp_path / LOG).write_text(json.dumps(log))
    root = ElementTree.parse(write_alignment_curves(tmp_path / "c.svg", read_logs(tmp_path))).getroot()
    charts = root.findall(f"{SVG}g")
    titles = [chart.findtext(f"{SVG}text[@class='title']") for chart in charts]
    assert titles[:2] == ["reward", "kl"]
    drawn = [sum(bool(line.get("points")) for line in chart.iter(f"{SVG}polyline")) for chart in charts]
    assert drawn == [1, 1, 2, 0]

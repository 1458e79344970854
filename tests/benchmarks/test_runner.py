"""`python -m benchmarks`: figures against goals, exit codes and the page."""

import json
import subprocess
import sys

import pytest

import benchmarks.__main__ as runner
from benchmarks.performance.figure import Figure, at_least, at_most, times_faster
from benchmarks.performance.page import Machine, markdown

FAST = Figure("a query", 2.0, "ms", "numpy", 30.0, times_faster(10.0))
SLOW = Figure("a frame", 1.5, "s", goal=at_most(0.2), note="1.8 people")


@pytest.mark.parametrize(
    ("figure", "ratio", "is_met"),
    [
        (FAST, 15.0, True),
        (SLOW, None, False),
        (Figure("a frame", 0.2, "s", goal=at_most(0.2)), None, True),
        (Figure("rank agreement", 0.8, "rho", goal=at_least(0.9)), None, False),
        (Figure("a step", 2.0, "ms", "a loop", 10.0, times_faster(10.0)), 5.0, False),
        (Figure("a step", 2.0, "ms", "a loop", 10.0), 5.0, None),
    ],
)
def test_a_figure_is_compared_with_its_goal(figure, ratio, is_met):
    assert (figure.ratio, figure.is_met) == (ratio, is_met)


def test_a_figure_is_the_same_after_json():
    assert Figure.from_json(json.loads(json.dumps(FAST.to_json()))) == FAST


def test_the_page_names_missed_goals_and_what_failed():
    machine = Machine("python -m benchmarks", "abc1234", "2026-01-01", 2, 2, "x86_64", "2.13.0")
    page = markdown(
        machine, {"retrieval": [FAST], "predict": [SLOW], "rendering": []}, {"rendering": "no OpenGL"}
    )
    assert "| a query | 2 ms | numpy | 30 | 15 | at least 10 x | met |" in page
    assert "| a frame | 1.5 s |  |  |  | at most 0.2 | **missed** |" in page
    assert "a frame: 1.8 people." in page
    assert "Not measured: no OpenGL." in page


@pytest.mark.parametrize(("figures", "code"), [((FAST,), 0), ((FAST, SLOW), 1)])
def test_a_missed_goal_exits_1(monkeypatch, capsys, figures, code):
    monkeypatch.setattr(runner, "run", lambda name: runner.Result(figures, 100.0))
    with pytest.raises(SystemExit) as stopped:
        runner.main(["retrieval", "--json"])
    assert stopped.value.code == code
    record = json.loads(capsys.readouterr().out)
    assert record["benchmarks"]["retrieval"]["figures"][0]["ratio"] == 15.0
    assert record["command"] == "python -m benchmarks retrieval"


def test_a_failed_benchmark_exits_1_with_its_reason(monkeypatch, capsys):
    monkeypatch.setattr(runner, "run", lambda name: runner.Result(failure="ValueError: no OpenGL"))
    with pytest.raises(SystemExit) as stopped:
        runner.main(["rendering"])
    assert stopped.value.code == 1
    assert "Not measured: ValueError: no OpenGL." in capsys.readouterr().out


def test_an_unknown_name_exits_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        runner.main(["speed"])
    assert stopped.value.code == 2
    assert "there is no benchmark 'speed'; there are rendering, evidence" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_runs_in_a_process_of_its_own():
    command = [sys.executable, "-m", "benchmarks", "sampling", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["benchmarks"]["sampling"]
    assert found["failure"] is None
    assert {figure["unit"] for figure in found["figures"]} == {"ms"}
    assert found["peak_mib"] > 100

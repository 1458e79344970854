"""Files of rankings by people, and the reference that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.critics.agreement import critic_agreement
from eval.rankings.agreement import (
    PEOPLE,
    group_worth,
    judge_agreement,
    judges_sentence,
    people_group,
)
from eval.rankings.file import Order, RankedGroup, Rankings, RankingsFile, read_rankings

GROUP = {"group": "a-0", "photo": "photos/a.jpg", "hypotheses": "a-0.npz", "person": 0, "size": 4}


def write(path: Path, *records: object, end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + end)
    return path


def order(*equal: tuple[int, ...] | list[int], judge: str = "1", group: str = "a-0") -> Order:
    return Order(judge, group, tuple(map(tuple, equal)))


def rankings(*orders: Order, size: int = 4) -> Rankings:
    names = dict.fromkeys(item.group for item in orders)
    return Rankings({name: RankedGroup(name, Path(), Path(), 0, size) for name in names}, orders)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_what_was_appended_is_read(tmp_path: Path):
    path = tmp_path / "deep" / "rankings.jsonl"
    group = RankedGroup("a-0", tmp_path / "photos" / "a.jpg", tmp_path / "a-0.npz", 0, 4)
    with RankingsFile(path) as file:
        file.add_group(group)
        file.add_group(group)
        file.add_order(order([3], [0, 1], [2]))
    assert path.read_text().splitlines() == [
        '{"group": "a-0", "photo": "../photos/a.jpg", "hypotheses": "../a-0.npz", "person": 0, "size": 4}',
        '{"judge": "1", "group": "a-0", "order": [[3], [0, 1], [2]]}',
    ]
    found = read_rankings(path)
    assert found.orders == [order([3], [0, 1], [2])]
    assert found.groups["a-0"].photo.resolve() == (tmp_path / "photos" / "a.jpg").resolve()


def test_a_killed_run_is_continued(tmp_path: Path):
    path = write(tmp_path / "r.jsonl", GROUP, end='\n{"judge": "1", "gro')
    assert read_rankings(path).orders == []
    with RankingsFile(path) as file:
        file.add_order(order([0], [1]))
        assert file.orders == [order([0], [1])]
    assert read_rankings(path).orders == [order([0], [1])]


def test_a_last_line_without_a_line_break_counts_if_it_is_complete(tmp_path: Path):
    said = {"judge": "1", "group": "a-0", "order": [[0], [1]]}
    assert len(read_rankings(write(tmp_path / "r.jsonl", GROUP, said, end="")).orders) == 1


def test_another_group_of_the_same_name_is_refused(tmp_path: Path):
    path = write(tmp_path / "r.jsonl", GROUP)
    with (
        RankingsFile(path) as file,
        pytest.raises(ValueError, match=r"r.jsonl has another group 'a-0': 4 bodies of person 0"),
    ):
        file.add_group(RankedGroup("a-0", tmp_path / "photos/a.jpg", tmp_path / "a-0.npz", 0, 5))
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ((1,), "line 1 of .* is a int, not an object"),
        (({"group": "a"},), "line 1 of .* lacks hypotheses, person, photo, size|lacks photo, hypotheses"),
        (({**GROUP, "size": 1},), "size must be at least 2"),
        (({**GROUP, "size": "4"},), "size of line 1 of .* is of type str, not int"),
        ((GROUP, {**GROUP, "size": 5}), "line 2 of .*: there is another group 'a-0'"),
        (({"judge": "1", "group": "b", "order": [[0], [1]]},), "no line before it describes the group 'b'"),
        ((GROUP, {"judge": "1", "group": "a-0", "order": [0, 1]}), "order takes lists of hypotheses"),
        ((GROUP, {"judge": "1", "group": "a-0", "order": [[0]]}), "at least two hypotheses from 0 to 3"),
        ((GROUP, {"judge": "1", "group": "a-0", "order": [[0], [4]]}), "at least two hypotheses from 0 to 3"),
        (
            (GROUP, {"judge": "1", "group": "a-0", "order": [[0], [True]]}),
            "at least two hypotheses from 0 to 3",
        ),
        ((GROUP, {"judge": "1", "group": "a-0", "order": [[0, 1], [1]]}), "has a hypothesis twice"),
        (
            (GROUP, {"judge": 1, "group": "a-0", "order": [[0], [1]]}),
            "judge of line 2 of .* is of type int, not str",
        ),
    ],
)
def test_a_line_that_is_no_ranking_is_named(tmp_path: Path, records, said: str):
    path = write(tmp_path / "r.jsonl", *records)
    with pytest.raises(ValueError, match=said):
        read_rankings(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=said):
        RankingsFile(path)
    assert path.read_bytes() == before


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file of rankings"):
        read_rankings(tmp_path / "r.jsonl")


# -- worth and agreement -----------------------------------------------------------------------------------------------


def test_the_worth_of_a_ranking_is_the_share_of_comparisons_won():
    worth = group_worth(rankings(order([3], [0, 1], [2])), "a-0")["1"]
    # 3 beats all; 0 and 1 beat 2, tie with each other and lose to 3
    assert worth.tolist() == pytest.approx([1.5 / 3, 1.5 / 3, 0.0, 1.0])


def test_pairs_of_a_judge_add_up():
    found = group_worth(rankings(order([3], [0]), order([3], [1]), order([0], [1])), "a-0")["1"]
    assert found[[0, 1, 3]].tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert np.isnan(found[2])  # nobody compared it


def test_a_critic_agrees_with_the_mean_of_the_judges():
    said = rankings(order([0], [1], [2], [3]), order([0], [1], [3], [2], judge="2"))
    group = people_group(said, "a-0", "a-0", (9.0, 5.0, 3.0, 1.0))
    # worth 1, 2/3, 1/6, 1/6: a tie of 2 and 3
    assert group.errors_mm[PEOPLE].tolist() == pytest.approx([0.0, 1 / 3, 5 / 6, 5 / 6])
    found = critic_agreement([group], PEOPLE)
    assert found.srcc is not None
    assert found.srcc.mean == pytest.approx(0.9487, abs=1e-4)  # ranks 1 2 3 4 and 1 2 3.5 3.5
    wrong = people_group(said, "a-0", "a-0", (1.0, 3.0, 5.0, 9.0))
    assert critic_agreement([wrong], PEOPLE).srcc.mean == pytest.approx(-0.9487, abs=1e-4)


def test_hypotheses_that_nobody_compared_are_left_out():
    group = people_group(rankings(order([0], [1], [3])), "a-0", "s", (9.0, 5.0, 99.0, 1.0))
    assert group.scores == (9.0, 5.0, None, 1.0)
    assert critic_agreement([group], PEOPLE).srcc.mean == pytest.approx(1.0)


def test_judges_agree_by_the_mean_over_their_pairs():
    forth, back = order([0], [1], [2], [3]), order([3], [2], [1], [0], judge="2")
    again = order([0], [1], [2], [3], judge="3")
    found = judge_agreement(rankings(forth, back, again))
    assert found.srcc is not None
    assert found.srcc.mean == pytest.approx((-1 - 1 + 1) / 3)
    assert (found.judges, found.groups, found.orders) == (3, 1, 3)
    assert json.loads(json.dumps(found.to_json()))["krcc"][0] == pytest.approx(-1 / 3)
    assert judges_sentence(found).startswith(
        "3 judges, 3 orders of 1 groups; agreement between two judges: SRCC -0.333"
    )


def test_one_judge_has_no_agreement():
    found = judge_agreement(rankings(order([0], [1], [2])))
    assert (found.srcc, found.judges) == (None, 1)
    assert "their agreement is unknown" in judges_sentence(found)

"""The tables on real data sets: tiny files in the layouts of their authors, and every table made from them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.progress import Tick
from eval.benchmark.annotated.annotated_errors import EvaluationBodies
from eval.critics.comparison import CriticComparison, CriticEvalSettings
from eval.critics.kinds import CONSENSUS
from eval.study.images import StudyImages
from eval.study.prepared import PRESETS, PreparedImages, PreparedSets, read_sets
from eval.tables import run
from eval.tables.run import run_prepared_tables
from eval.tables.table import ResultTable
from hmr.body.model import EMBEDDED_BODY, Body, load_body
from hmr.datasets.annotated_set import prepare
from hmr.datasets.protocols import load_regressor
from hmr.datasets.sources import SOURCES
from hmr.detection.simulated import SimulatedDetector
from tests.command import call
from tests.eval.tables.small_tables import SIZES, use_small_arms
from tests.hmr.datasets.layouts import human36m, humandata_members, image, pw3d_coco

PEOPLE = 8


@pytest.fixture(scope="module")
def smpl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded body as a user's SMPL file, whose layout it has."""
    return Path(shutil.copy(EMBEDDED_BODY, tmp_path_factory.mktemp("body") / "SMPL_NEUTRAL.npz"))


@pytest.fixture(scope="module")
def regressor(tmp_path_factory: pytest.TempPathFactory, smpl: Path) -> Path:
    """17 joints that are single vertices."""
    rows = np.zeros((17, len(load_body(smpl).model.v_template)))
    rows[range(17), np.arange(17) * 300] = 1.0
    path = tmp_path_factory.mktemp("regressor") / "J_regressor_h36m.npy"
    np.save(path, rows)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets under the names of the preset `adhmr`."""
    raw, prepared = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared")

    def add(source: str, folder: Path, split: str, *names: str) -> None:
        for name in names:
            prepare(SOURCES[source], folder, split, prepared / name)

    (raw / "humandata").mkdir()
    for name in ("insta-variety-train", "human36m-train", "gta-human"):
        members = humandata_members(PEOPLE)
        members["image_path"] = [f"{name}/{row}.jpg" for row in range(PEOPLE)]
        members["smpl"]["transl"] = np.tile([0.0, 0.0, 5.0], (PEOPLE, 1))
        members["smpl"]["betas"] = np.ones((PEOPLE, 10))  # zeros are none
        np.savez_compressed(raw / "humandata" / f"{name}.npz", **members)
        for path in members["image_path"]:
            image(raw / "humandata" / path)
        add("humandata", raw / "humandata", name, name)
    add("human36m", raw / "human36m", human36m(raw / "human36m"), "human36m-test")
    add("3dpw-coco", raw / "3dpw", pw3d_coco(raw / "3dpw"), "3dpw-coco-test-10th")
    return prepared


def sets(data: Path) -> PreparedSets:
    return read_sets("adhmr", data)


def images(data: Path, policy, body: Body, number: int = 0) -> PreparedImages:
    found = sets(data)
    return PreparedImages(found, found.test[number], EvaluationBodies(body, {}), policy.detector, None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_the_sets_that_are_missing(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a prepared set .* meshcritic data prepare"):
        read_sets(name, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("align: a", "does not name the sets of calibrate, test"),
        ("align: a\ncalibrate: b\ntest: c", r"test takes .*Sequence\[str\], not 'c'"),
        ("train: a", "unknown train; allowed are align, calibrate, compare, test"),
    ],
)
def test_a_file_of_other_content_is_refused(text, message, tmp_path):
    (tmp_path / "sets.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sets(str(tmp_path / "sets.yaml"), tmp_path)


def test_images_to_align_on_have_no_labels_and_those_to_learn_from_have(data, tiny_policy, smpl):
    found = images(data, tiny_policy, load_body(smpl))
    assert isinstance(found, StudyImages)
    assert found.people_to_align == PEOPLE
    assert [sample.id for sample in found.to_align(2)] == [case.sample.id for case in found.labels(2)]
    assert found.scenes(2, uses_truth=True) is None
    case = found.calibration(3).cases[2]
    torch.testing.assert_close(case.truth.params.transl, torch.tensor([0.0, 0.0, 5.0]), atol=0.5, rtol=0)
    assert case.truth.mask.shape == case.sample.image.shape[:2]
    assert len(found.calibration(3).cases) == 3
    assert found.protocol() == (
        "human36m-test; joints of h36m-14, relative to its root, mm; detector embedded; aligned on insta-variety-train"
    )


def test_what_results_depend_on_is_in_the_digests(data, tiny_policy, smpl):
    found = images(data, tiny_policy, load_body(smpl))
    assert found.calibration(3).digest != found.calibration(4).digest
    names = [[case.sample.id for case in found.calibration(count).cases] for count in (3, 4)]
    assert names[0] == names[1][:3]
    assert replace(found, limit=1).digest() != found.digest()
    other = replace(found, detector=SimulatedDetector())
    assert other.digest() != found.digest()
    assert other.learned_from != found.learned_from


def test_sets_that_share_people_are_refused(data, tmp_path):
    listed = {"align": "human36m-train", "calibrate": "human36m-train", "test": ["human36m-test"]}
    (tmp_path / "sets.yaml").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"human36m-train and .*human36m-train share [0-9]+ photographs"):
        read_sets(str(tmp_path / "sets.yaml"), data)


def test_fits_of_another_body_are_named(data, tiny_policy, body):
    found = images(data, tiny_policy, body)
    reason = found.without_labels(2)
    assert reason is not None
    assert re.fullmatch(
        r"insta-variety-train/\d.jpg#\d has parameters of smpl; the body given is embedded", reason
    )
    with pytest.raises(
        ValueError,
        match=r"human36m-train has 0 people to learn from: human36m-train/0.jpg#0 has parameters of",
    ):
        found.calibration(3)


def silent(title: str, total: int) -> Tick:
    return lambda done, note="": None


@pytest.mark.slow
def test_policies_are_aligned_once_for_all_test_sets(
    data, tiny_policy, smpl, regressor, tmp_path, monkeypatch
):
    use_small_arms(monkeypatch)
    bodies = EvaluationBodies(load_body(smpl), {}, load_regressor(regressor))
    lines: list[str] = []

    def tables() -> list[ResultTable]:
        return run_prepared_tables(
            tiny_policy, sets(data), bodies, [1, 2], SIZES, tmp_path, silent, lines.append
        )

    found = tables()
    assert [(table.name, table.data) for table in found] == [
        (name, data)
        for data in ("human36m-test", "3dpw-coco-test-10th")
        for name in ("table-1", "table-2", "headroom")
    ]
    assert lines == []
    base, other = found[0].rows[0].cells, found[3].rows[0].cells
    assert base["min4"].mean <= base["min2"].mean
    assert base["min4"].mean != other["min4"].mean
    policies = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert len(policies) == len(found[2].rows) + 2  # every arm, the row with more images and the ceiling
    assert tables() == found  # from what is stored
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == policies


@pytest.mark.slow
def test_critics_are_compared_on_people_with_fits(data, tiny_policy, smpl, tmp_path, monkeypatch):
    found = images(data, tiny_policy, load_body(smpl))
    made: list[CriticComparison] = []

    def table(comparison: CriticComparison, settings: CriticEvalSettings, data: str) -> ResultTable:
        made.append(comparison)
        assert (settings.images, settings.calibration) == (3, PEOPLE)
        return ResultTable("table-3", "", "", (), (), "", (), (), data)

    monkeypatch.setattr(run, "CRITICS", {3: table})
    settings = CriticEvalSettings(critic="consensus", images=3, samples=4, calibration=8)
    monkeypatch.setattr(run, "_critic_settings", lambda sizes, tables: settings)
    (only,) = run_prepared_tables(tiny_policy, found.sets, found.bodies, [3], SIZES, tmp_path, silent, print)
    assert only.data == "gta-human"
    (comparison,) = made
    compared = found.to_compare(3, PEOPLE)
    assert compared is not None
    assert comparison.benchmark == compared.tests.digest
    consensus = comparison.critics[CONSENSUS].agreements["mpjpe_mm"].srcc
    assert consensus is not None
    assert -1 <= consensus.mean <= 1


def test_without_a_set_to_compare_on_there_are_no_tables_of_critics(data, tiny_policy, smpl, tmp_path):
    named = replace(sets(data), compare=None)
    lines: list[str] = []
    bodies = EvaluationBodies(load_body(smpl), {})
    assert not run_prepared_tables(tiny_policy, named, bodies, [3], SIZES, tmp_path, silent, lines.append)
    assert lines == ["no tables 3 and 4: no set to compare critics on is named"]


@pytest.mark.slow
def test_the_command(data, tiny_policy, smpl, regressor, tmp_path, monkeypatch, capsys):
    """Images without fits: no ceiling, and the reason."""
    use_small_arms(monkeypatch)
    monkeypatch.setattr("eval.tables.sizes.QUICK", SIZES)
    tiny_policy.save_pretrained(tmp_path / "policy")
    shutil.copytree(data / "insta-variety-train", data / "no-fits")
    _without_fits(data / "no-fits")
    listed = {"align": "no-fits", "calibrate": "human36m-train", "test": ["human36m-test"]}
    (tmp_path / "sets.yaml").write_text(json.dumps(listed))
    words = ("tables", "--table", 1, "--sets", tmp_path / "sets.yaml", "--data", data, "--body", smpl)
    words = (*words, "--policy", tmp_path / "policy", "--detector", "embedded", "--regressor", regressor)
    code, out, err = call(monkeypatch, capsys, *words, "--out", tmp_path / "out")
    assert code == 0
    assert "no ceiling and no headroom on human36m-test: insta-variety-train/" in err
    assert "has no SMPL parameters" in err
    assert "## Table 1: Alignment on images without labels (human36m-test)" in out
    assert "ceiling" not in out


def _without_fits(folder: Path) -> None:
    path = folder / "annotations.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("smpl")
    empty = pa.nulls(len(table), table.schema.field("smpl").type)
    pq.write_table(table.set_column(column, "smpl", empty), path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--body", "b.npz"), "--body: only with --sets"),
        (("--sets", "nothing.yaml"), "nothing.yaml: there is no such file"),
        (("--sets", "adhmr", "--data", "nowhere"), "is not a prepared set"),
    ],
)
def test_what_the_command_refuses(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "tables", *words)
    assert code == 2
    assert message in " ".join(err.split())

"""A policy on prepared real data: worked errors by the sets' own protocols, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.storage.fingerprint import file_digest
from common.storage.versions import versions
from eval.benchmark.annotated.annotated_errors import PROTOCOLS, EvaluationBodies
from eval.benchmark.annotated.annotated_report import AnnotatedReport
from eval.benchmark.annotated.prepared_sets import evaluate_annotated
from hmr.body.model import EMBEDDED_BODY, Body
from hmr.datasets.annotated_set import ANNOTATIONS, prepare
from hmr.datasets.annotation import Annotation, Joints, SmplFit, Source
from hmr.datasets.joints import H36M17, HMR2_44, SMPL24, Convention
from hmr.datasets.protocols import regress
from hmr.datasets.sources import SOURCES
from hmr.detection.blazepose.detector import load_blazepose
from hmr.policy.checkpoint import load_policy
from hmr.types import BodyParams, Box, Detection, Hypotheses, Sample
from tests.command import call
from tests.hmr.datasets.layouts import LAYOUTS, coco, image, spin_pw3d, spin_pw3d_columns

PEOPLE, SIZE = 2, (64, 48)


class Statue:
    """A policy that always answers the same body, twice, far enough for all of it to be in the picture."""

    def __init__(self) -> None:
        self.params = BodyParams(
            torch.tensor([[torch.pi, 0.0, 0.0]] * 2), torch.zeros(2, 23, 3), torch.zeros(2, 10),
            torch.tensor([[0.0, 0.0, 6.0]] * 2),
        )  # fmt: skip

    def encode(self, samples: Sequence[Sample], detections: Sequence[Detection]) -> Sequence[Sample]:
        return samples

    def sample(self, features: Any, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        assert num_samples == 2
        return [Hypotheses(self.params, sample.camera) for sample in features]


class Blind:
    """A detector that reports no point."""

    name = "blind"

    def find(self, image: np.ndarray) -> list[Box]:
        return []

    def detect(self, sample: Sample) -> Detection:
        return Detection.from_points([], torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))


class Fixed:
    """A critic with the same scores for every group."""

    name = "fixed"

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return list(self.scores)


def _smpl(body: Body) -> Body:
    """The default body under SMPL's name, free to be changed."""
    renamed = copy.deepcopy(body)
    renamed.name = "smpl"
    return renamed


def _regressor(body: Body, joints: int) -> torch.Tensor:
    """Joints that are single vertices."""
    regressor = torch.zeros(joints, len(body.model.v_template))
    regressor[range(joints), torch.arange(joints) * 300] = 1.0
    return regressor


def _set(tmp_path: Path, source: str, person: dict[str, Any]) -> Path:
    def read(folder: Path, split: str) -> Iterator[Annotation]:
        for number in range(PEOPLE):
            yield Annotation(f"{split}/1.png", str(number), Box(8.0, 4.0, 56.0, 44.0), **person)

    image(tmp_path / "set" / "val" / "1.png", SIZE)
    return prepare(Source(source, (), "a test", read), tmp_path / "set", "val", tmp_path / "prepared")


def _joints(convention: Convention, positions_m: torch.Tensor, known: torch.Tensor | None = None) -> Joints:
    known = torch.ones(len(convention), dtype=torch.bool) if known is None else known
    return Joints(convention, positions_m, known, "camera")


def _evaluate(
    folder: Path, instruments: EvaluationBodies, policy: Statue | None = None, scorer: Fixed | None = None
) -> AnnotatedReport:
    return evaluate_annotated(
        policy or Statue(), Blind(), folder, instruments, num_samples=2, seed=0,
        stage=lambda title, total: lambda done, note="": None, scorer=scorer,
    )  # fmt: skip


def test_one_joint_of_24_is_50_mm_off(tmp_path: Path, body: Body) -> None:
    true_m = body.joints(Statue().params)[0] + 1.0  # somewhere else as a whole: the root takes that away
    true_m[15] += torch.tensor([0.0, 0.03, 0.04])
    report = _evaluate(
        _set(tmp_path, "3dpw", {"joints": (_joints(SMPL24, true_m),)}), EvaluationBodies(body, {})
    )
    assert report.protocol == "3dpw-24"
    assert report.people_in_space == PEOPLE
    assert report.errors_mm["mpjpe_mm"] == {
        name: pytest.approx(50 / 24, rel=1e-3) for name in ("min2", "mean", "hyp0", "averaged")
    }
    assert 0 < report.errors_mm["pa_mpjpe_mm"]["hyp0"] < 50  # squares are least, not distances


def test_protocols_of_14_joints_use_the_regressor(tmp_path: Path, body: Body) -> None:
    regressor = _regressor(body, 17)
    vertices = body(Statue().params).vertices_cam_m[0]
    true_m = regress(regressor, vertices).clone()
    true_m[6] += torch.tensor([0.03, 0.04, 0.0])  # one of the protocol's 14
    true_m[7] += 1.0  # the torso, which is none of them
    prepared = _set(tmp_path, "human36m", {"joints": (_joints(H36M17, true_m),)})
    report = _evaluate(prepared, EvaluationBodies(body, {}, regressor))
    assert report.errors_mm["mpjpe_mm"]["mean"] == pytest.approx(50 / 14, rel=1e-3)


def test_hmr2_uses_the_joints_of_j19(tmp_path: Path, body: Body) -> None:
    """4D-Humans compares the last 19 of its 44 joints with those that SMPL_to_J19.pkl sums from the prediction."""
    regressor = _regressor(body, 19)
    true_m = torch.zeros(44, 3)
    true_m[25:] = regress(regressor, body(Statue().params).vertices_cam_m[0])
    true_m[25] += torch.tensor([0.0, 0.03, 0.04])  # right ankle, one of the protocol's 14
    true_m[38] += 1.0  # the top of the head, which is none of them
    prepared = _set(tmp_path, "hmr2", {"joints": (_joints(HMR2_44, true_m),)})
    report = _evaluate(prepared, EvaluationBodies(body, {}, regressor))
    assert report.protocol == "hmr2-14"
    assert report.errors_mm["mpjpe_mm"]["mean"] == pytest.approx(50 / 14, rel=1e-3)
    with pytest.raises(
        ValueError, match=r"SMPL_to_J19.pkl: give it with --regressor.* has 17 joints, not 19"
    ):
        _evaluate(prepared, EvaluationBodies(body, {}, _regressor(body, 17)))


def _spin_of_3dpw(tmp_path: Path) -> Path:
    """Two people in the statue's pose, a man and a woman, as SPIN's file has them: no joints, and no place."""
    (tmp_path / "spin").mkdir()
    split, statue = spin_pw3d(tmp_path / "spin"), Statue().params
    pose = torch.cat([statue.global_orient[:, None], statue.body_pose], dim=1).flatten(1).numpy()
    columns = spin_pw3d_columns() | {"pose": pose, "shape": statue.betas.numpy()}
    np.savez(tmp_path / "spin" / f"{split}.npz", **columns)
    return prepare(SOURCES["spin"], tmp_path / "spin", split, tmp_path / "prepared")


def test_spins_bodies_of_3dpw_are_posed_about_their_root_and_regressed(tmp_path: Path, body: Body) -> None:
    """The man is the prediction's own body; a vertex that one of 14 joints is lies 50 mm off on the woman's."""
    woman = _smpl(body)
    woman.model.v_template[6 * 300] += torch.tensor([0.0, 0.03, 0.04])
    bodies = {"male": _smpl(body), "female": woman}
    report = _evaluate(_spin_of_3dpw(tmp_path), EvaluationBodies(body, bodies, _regressor(body, 17)))
    assert (report.protocol, report.people_in_space) == ("h36m-14", 2)
    assert report.errors_mm["mpjpe_mm"]["mean"] == pytest.approx((0 + 50 / 14) / 2, rel=1e-3)
    vertices = len(body.model.v_template)
    assert report.people_with_vertices == 2
    assert report.errors_mm["pve_mm"]["mean"] == pytest.approx((0 + 50 / vertices) / 2, rel=0.05)
    pve_mm = {row["person"]: row["errors_mm"]["pve_mm"]["hyp0"] for row in report.per_person}
    assert sorted(pve_mm.values()) == pytest.approx([0, 50 / vertices], abs=2e-4)


def test_reductions_and_the_choice_of_a_critic(tmp_path: Path, body: Body) -> None:
    """The truth is hypothesis 0; the head of hypothesis 1 is elsewhere, and all other joints in place."""
    policy = Statue()
    policy.params.body_pose[1, 11, 0] = 0.5  # the neck turns
    posed_m = body.joints(policy.params)
    off_m = (posed_m[1] - posed_m[0]).norm(dim=-1)
    assert (off_m > 1e-4).sum() == 1
    expected = 1000 * off_m.sum().item() / 24
    prepared = _set(tmp_path, "3dpw", {"joints": (_joints(SMPL24, posed_m[0]),)})
    bodies = EvaluationBodies(body, {})
    errors = _evaluate(prepared, bodies, policy, Fixed(1.0, 2.0)).errors_mm["mpjpe_mm"]
    assert errors["pick2"] == pytest.approx(expected, rel=1e-3)
    assert errors["mean"] == pytest.approx(expected / 2, rel=1e-3)
    assert [errors["hyp0"], errors["min2"]] == pytest.approx([0, 0], abs=1e-3)
    assert 0 < errors["averaged"] < expected
    tied = _evaluate(prepared, bodies, policy, Fixed(2.0, 2.0))
    assert tied.errors_mm["mpjpe_mm"]["pick2"] == pytest.approx(expected / 2, rel=1e-3)
    assert tied.per_person[0]["scores"] == (2.0, 2.0)
    unscored = _evaluate(prepared, bodies, policy, Fixed(None, None))
    assert (unscored.people_scored, "pick2" in unscored.errors_mm["mpjpe_mm"]) == (0, False)
    assert _evaluate(prepared, bodies, policy).people_scored is None


def _male_statue() -> SmplFit:
    statue = Statue().params
    return SmplFit("smpl", "male", statue.global_orient[0], statue.body_pose[0], statue.betas[0], None)


def test_a_set_of_fits_alone_has_pve_and_a_missing_body_is_named(tmp_path: Path, body: Body) -> None:
    prepared = _set(tmp_path, "bedlam", {"smpl": _male_statue()})
    report = _evaluate(prepared, EvaluationBodies(body, {"male": _smpl(body)}))
    assert (report.protocol, report.people_with_vertices) == (None, PEOPLE)
    assert report.errors_mm.keys() == {"pve_mm"}
    assert report.errors_mm["pve_mm"]["min2"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match=r"PVE needs a male smpl body \(--bodies male=FILE\)"):
        _evaluate(prepared, EvaluationBodies(body, {}))


def test_why_people_have_no_pve_is_counted(tmp_path: Path, body: Body) -> None:
    joints = _joints(SMPL24, body.joints(Statue().params)[0])
    prepared = _set(tmp_path, "3dpw", {"smpl": _male_statue(), "joints": (joints,)})
    other, count = _smpl(body), len(body.model.v_template)
    other.model.v_template = other.model.v_template[:-1]
    reasons = {
        "needs a male smpl body (--bodies male=FILE)": {},
        f"smpl has {count - 1} vertices, and the body of the hypotheses, embedded, {count}": {"male": other},
    }
    for reason, by_gender in reasons.items():
        report = _evaluate(prepared, EvaluationBodies(body, by_gender))
        assert (report.people_in_space, report.people_with_vertices) == (PEOPLE, 0)
        assert report.without_pve == {reason: PEOPLE}


def test_a_policy_that_diverged_is_refused(tmp_path: Path, body: Body) -> None:
    policy = Statue()
    policy.params.transl[0, 0] = torch.nan
    prepared = _set(tmp_path, "3dpw", {"joints": (_joints(SMPL24, torch.zeros(24, 3)),)})
    with pytest.raises(ValueError, match="NaN or infinite bodies"):
        _evaluate(prepared, EvaluationBodies(body, {}), policy)


@pytest.mark.parametrize(
    ("bodies", "joints", "message"),
    [
        ((), 17, "needs a male smpl body; given are none .*--bodies male=FILE"),
        (("male",), 17, "needs a female smpl body; given are male .*--bodies female=FILE"),
        (("male", "female"), None, "J_regressor_h36m.npy: give it with --regressor, and an SMPL --body"),
        (("male", "female"), 19, "J_regressor_h36m.npy: .* the given one has 19 joints, not 17"),
    ],
)
def test_missing_bodies_for_spins_file_of_3dpw_are_named(
    tmp_path: Path, body: Body, bodies: tuple[str, ...], joints: int | None, message: str
) -> None:
    regressor = None if joints is None else _regressor(body, joints)
    instruments = EvaluationBodies(body, {gender: _smpl(body) for gender in bodies}, regressor)
    with pytest.raises(ValueError, match=message):
        _evaluate(_spin_of_3dpw(tmp_path), instruments)


# The layout, its protocol, the regressor's joints, and the people that have all of the protocol's joints.
COMPARED = {
    "human36m": ("h36m-14", 17, 4),
    "3dpw": ("3dpw-24", None, 4),
    "3dpw-coco": ("h36m-14", 17, 11),
    "hmr2": ("hmr2-14", 19, 3),
    "spin": ("h36m-14", 17, 2),
    "spin h36m": ("spin-h36m-14", 17, 2),
    "emdb": ("emdb-24", None, 2),
}


def test_every_protocol_has_a_test() -> None:
    assert {layout.split()[0] for layout in COMPARED} == set(PROTOCOLS)


@pytest.mark.parametrize("layout", COMPARED)
def test_a_source_is_evaluated_by_its_protocol(tmp_path: Path, body: Body, layout: str) -> None:
    (tmp_path / "data").mkdir()
    split = LAYOUTS[layout](tmp_path / "data")
    prepared = prepare(SOURCES[layout.split()[0]], tmp_path / "data", split, tmp_path / "prepared")
    protocol, joints, people = COMPARED[layout]
    bodies = {gender: _smpl(body) for gender in ("female", "male", "neutral")}
    report = _evaluate(
        prepared, EvaluationBodies(body, bodies, None if joints is None else _regressor(body, joints))
    )
    assert (report.protocol, report.people_in_space) == (protocol, people)
    for errors in report.errors_mm.values():
        assert all(1 < value < 10_000 for value in errors.values())  # the statue is none of these people


@pytest.mark.parametrize("regressor", [None, torch.zeros(17, 6890)])
def test_a_missing_regressor_or_smpl_body_is_named(
    tmp_path: Path, body: Body, regressor: torch.Tensor | None
) -> None:
    prepared = _set(tmp_path, "human36m", {"joints": (_joints(H36M17, torch.zeros(17, 3)),)})
    with pytest.raises(ValueError, match="SMPL --body"):
        _evaluate(prepared, EvaluationBodies(body, {}, regressor))


def test_people_without_a_joint_of_the_protocol_are_left_out(tmp_path: Path, body: Body) -> None:
    known = torch.ones(24, dtype=torch.bool)
    known[5] = False
    prepared = _set(tmp_path, "3dpw", {"joints": (_joints(SMPL24, torch.zeros(24, 3), known),)})
    with pytest.raises(ValueError, match=r"no person in .* has all joints of 3dpw-24 or COCO keypoints"):
        _evaluate(prepared, EvaluationBodies(body, {}))


def test_records_that_cannot_be_used_are_counted_and_the_rest_is_evaluated(
    tmp_path: Path, body: Body
) -> None:
    """A set of an earlier version, which kept such records."""
    true_m = body.joints(Statue().params)[0]
    prepared = _set(tmp_path, "3dpw", {"joints": (_joints(SMPL24, true_m),)})
    rows = pq.read_table(prepared / "annotations.parquet").to_pylist()
    rows[0]["box"] = [0.0, 0.0, 1.2e6, 1.2e6]
    pq.write_table(pa.Table.from_pylist(rows, ANNOTATIONS), prepared / "annotations.parquet")
    report = _evaluate(prepared, EvaluationBodies(body, {}))
    assert (report.people, report.people_in_space) == (PEOPLE, PEOPLE - 1)
    assert report.to_json()["dropped"] == {"box more than 4 times as large as the image": 1}


def test_people_without_annotations_are_not_posed(
    tmp_path: Path, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of fits alone, without a protocol: what the policy would answer is compared with nothing."""
    monkeypatch.delattr(Statue, "sample")
    (tmp_path / "data").mkdir()
    split = LAYOUTS["bedlam"](tmp_path / "data")
    prepared = prepare(SOURCES["bedlam"], tmp_path / "data", split, tmp_path / "prepared")
    with pytest.raises(ValueError, match=r"no person in .* has COCO keypoints"):
        _evaluate(prepared, EvaluationBodies(body, {}))


def _prepared_coco(tmp_path: Path) -> Path:
    (tmp_path / "coco").mkdir()
    split = coco(tmp_path / "coco")
    return prepare(SOURCES["coco"], tmp_path / "coco", split, tmp_path / "prepared")


@pytest.mark.parametrize("critic", [(), ("--critic",)])
def test_the_command_evaluates_the_shipped_policy_on_coco(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    critic: tuple[str, ...],
) -> None:
    prepared = _prepared_coco(tmp_path)
    words = ("data", "evaluate", prepared, "--samples", 2, *critic, "--json", "--out", tmp_path / "out")
    code, out, _ = call(monkeypatch, capsys, *words)
    answer = json.loads(out)
    assert code == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == answer
    assert answer["data"] == json.loads((prepared / "set.json").read_text())["digest"]
    assert (answer["policy"], answer["body"]) == (load_policy().digest(), file_digest(EMBEDDED_BODY))
    assert (answer["detector_name"], answer["detector"]) == ("blazepose", load_blazepose().digest())
    (person,) = map(json.loads, (tmp_path / "out" / "people.jsonl").read_text().splitlines())
    assert (person["image"], person["person"]) == ("val2017/000000000139.jpg", "7")
    estimates = {"detector", "hyp0", "mean", "averaged", "best2", *(["pick2"] if critic else [])}
    assert set(person["keypoints_px"]) == set(answer["pck"]) == estimates
    for estimate in estimates - {"mean", "pick2"}:
        known = [error for error in person["keypoints_px"][estimate] if error is not None]
        assert len(known) == 11
        within = np.mean([error < 0.1 * person["box_side_px"] for error in known])
        assert answer["pck"][estimate]["pck_0.1"]["all"] == pytest.approx(within)
    assert (answer["people_in_image"], answer["people_scored"]) == (1, 1 if critic else None)
    assert answer["critic"] == ("agent:embedded" if critic else None)
    assert len(person.get("scores", ())) == (2 if critic else 0)
    assert answer["prepared"]["missing_images"] == 0
    assert answer["versions"] == versions()


def test_the_command_prints_tables_and_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = _prepared_coco(tmp_path)
    summary = json.loads((prepared / "set.json").read_text())
    lost = {"missing_images": 4, "first_missing": ["val2017/1.jpg", "val2017/2.jpg", "val2017/3.jpg"]}
    (prepared / "set.json").write_text(json.dumps({**summary, **lost}))
    words = (
        "data",
        "evaluate",
        prepared,
        "--samples",
        2,
        "--detector",
        "embedded",
        "--out",
        tmp_path / "out",
    )
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0
    for text in ("detector", "hypothesis 0", "averaged body", "best of 2", "left_ear", "@0.05", "@0.2"):
        assert text in out
    assert (
        "when the set was prepared: 4 images missing: val2017/1.jpg, val2017/2.jpg, val2017/3.jpg, ..." in err
    )
    for name in ("policy", "detector", "body", "data"):
        assert f"{name} " in err.splitlines()[-1]


def test_a_dry_run_counts_the_questions_and_sends_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--critic",
        "--backend",
        "openai:m@http://far.invalid/v1",
        "--set",
        "permutations=1",
        "--dry-run",
    )
    more = ("--detector", "embedded", "--samples", 2, "--json", "--out", tmp_path / "out")
    code, out, err = call(monkeypatch, capsys, "data", "evaluate", _prepared_coco(tmp_path), *words, *more)
    estimate = json.loads(out)["dry_run"]
    assert (code, estimate["sends_to"]) == (0, "far.invalid")
    assert estimate["calls"] >= 1
    assert "are sent to" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--memory", "m"),
        ("--backend", "replay:f"),
        ("--max-calls", 3),
        ("--set", "permutations=1"),
        ("--dry-run",),
    ],
)
def test_options_of_the_critic_need_a_critic(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...],
) -> None:
    code, _, err = call(monkeypatch, capsys, "data", "evaluate", tmp_path, *words)
    assert (code, "configure the critic; add --critic" in err) == (2, True)


def test_an_unavailable_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(monkeypatch, capsys, "data", "evaluate", tmp_path, "--device", "warp")
    assert (code, "torch has no device 'warp'" in err) == (2, True)


def test_errors_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(monkeypatch, capsys, "data", "evaluate", tmp_path / "nowhere")
    assert (code, "there is no prepared data set" in err) == (2, True)
    code, _, err = call(monkeypatch, capsys, "data", "evaluate", tmp_path, "--bodies", "other=file.npz")
    assert (code, "female=FILE" in err) == (2, True)
    (tmp_path / "J.npy").write_text("no array")
    code, _, err = call(monkeypatch, capsys, "data", "evaluate", tmp_path, "--regressor", tmp_path / "J.npy")
    assert (code, err.count("\n"), "allow_pickle" in err) == (2, 1, False)
    assert f"{tmp_path / 'J.npy'} is not an array file" in err

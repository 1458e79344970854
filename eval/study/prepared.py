"""Real data sets as the images of a study of alignment: folders that `meshcritic data prepare` wrote.

| folder      | what it is used for                                                              | needs             |
|-------------|----------------------------------------------------------------------------------|-------------------|
| `align`     | images to align on; only the ceiling reads their labels                          | images            |
| `calibrate` | labelled images on which critics learn                                           | SMPL fits         |
| `test`      | sets that results are of, each by its own protocol                               | joints or fits    |
| `compare`   | labelled images on which critics are compared                                    | SMPL fits         |

No person of `align` or `calibrate` may be in another one: critics would learn from the truth of the images that are
aligned on, or reported. The images to align on, calibrate on and compare on are drawn from their sets in a fixed random
order, because neighbouring records are frames of one video.

A critic learns from bodies, so SMPL fits are those of the body of the hypotheses, of neutral gender, placed in a
calibrated camera. Betas of a gendered body are not valid for another one (`hmr.datasets.labelling`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from common.progress import Stage
from common.reading.validate import read_json
from common.reading.yaml_fields import checked_fields, read_fields
from common.storage.files import CONFIGS
from common.storage.fingerprint import digest
from eval.benchmark.annotated.annotated_errors import EvaluationBodies, protocol_of
from eval.benchmark.annotated.annotated_report import AnnotatedReport
from eval.benchmark.annotated.prepared_sets import evaluate_annotated
from eval.benchmark.protocol import Report
from eval.critics.groups import CriticImages, LabelledSet
from eval.study.images import Evaluation, StudyPolicy
from hmr.body.model import Body
from hmr.datasets.annotated_set import photograph_digests, read_annotations
from hmr.datasets.annotation import Annotation
from hmr.datasets.labelling import labelled_of
from hmr.detection.protocol import detector_digest
from hmr.render import load_renderer
from hmr.synthetic.store import read_samples, sample_ids
from hmr.types import Detector, Labelled, Sample

__all__ = ["PRESETS", "PreparedImages", "PreparedSets", "read_sets"]

PRESETS = ("adhmr", "hmr2")  # configs/tables_NAME.yaml
NEUTRAL = "neutral"
ERRORS = ("mpjpe_mm", "pa_mpjpe_mm")
_FIELDS = {"align": str, "calibrate": str, "test": Sequence[str], "compare": str | None}


@dataclass(frozen=True)
class PreparedSets:
    """Folders of prepared sets. compare: None if no critics are compared."""

    align: Path
    calibrate: Path
    test: tuple[Path, ...]
    compare: Path | None = None


def read_sets(name: str, root: Path) -> PreparedSets:
    """The sets of a preset, or of a YAML file with the fields of `PreparedSets`, as folders under `root`.

    Raises FileNotFoundError for a missing file or folder, and ValueError for a file with other content.
    """
    path = CONFIGS / f"tables_{name}.yaml" if name in PRESETS else Path(name)
    values = checked_fields(str(path), read_fields(path, _FIELDS), _FIELDS)
    if missing := [field for field in ("align", "calibrate", "test") if not values.get(field)]:
        raise ValueError(f"{path} does not name the sets of {', '.join(missing)}")
    compare = values.get("compare")
    sets = PreparedSets(
        _prepared(root / values["align"]),
        _prepared(root / values["calibrate"]),
        tuple(_prepared(root / each) for each in values["test"]),
        None if compare is None else _prepared(root / compare),
    )
    _refuse_shared_photographs(sets)
    return sets


def _refuse_shared_photographs(sets: PreparedSets) -> None:
    """Raises ValueError for two folders with a photograph in common, whatever the sources that they were prepared from
    call it; test sets may share theirs with each other. Other frames of one video are not recognised."""
    folders = [sets.align, sets.calibrate, *([sets.compare] if sets.compare else [])]
    pairs = [*itertools.combinations(folders, 2), *itertools.product(sets.test, folders[:2])]
    contents = {folder: set(photograph_digests(folder).values()) for folder in {*folders, *sets.test}}
    for first, second in pairs:
        if shared := contents[first] & contents[second]:
            raise ValueError(
                f"{first} and {second} share {len(shared)} photographs; use sets that have none in common"
            )


def _prepared(folder: Path) -> Path:
    for name in ("set.json", "annotations.parquet"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a prepared set ({name} is missing); write it with meshcritic data prepare"
            )
    return folder


@dataclass(frozen=True)
class PreparedImages:
    """`eval.study.images.StudyImages` with the results of one test set.

    limit: the maximum number of people that results are of; None: all.
    """

    sets: PreparedSets
    test: Path
    bodies: EvaluationBodies
    detector: Detector
    limit: int | None

    @property
    def body(self) -> Body:
        return self.bodies.body

    @property
    def tests(self) -> str:
        return self.test.name

    def protocol(self) -> str:
        joints = protocol_of(self.test, read_annotations(self.test).values())
        if joints is None:
            raise ValueError(
                f"{self.test} has no protocol for 3D joints, so it has no results for the tables"
            )
        return (
            f"{self.tests}; joints of {joints.name}, relative to its root, mm; detector {self.detector.name}; aligned "
            f"on {self.sets.align.name}"
        )

    @property
    def learned_from(self) -> str:
        """Content hash of what policies are aligned on and critics learn from."""
        return digest(_content(self.sets.align), _content(self.sets.calibrate), self._instruments)

    def digest(self) -> str:
        return digest(_content(self.test), str(self.limit), self._instruments)

    @property
    def people_to_align(self) -> int:
        return len(sample_ids(self.sets.align))

    def to_align(self, count: int, uses_truth: bool = False) -> Sequence[Sample]:
        return read_samples(self.sets.align).take(_order(self.people_to_align)[:count])

    def scenes(self, count: int, uses_truth: bool) -> Path | None:
        return None

    def without_labels(self, count: int) -> str | None:
        """Why the first `count` images to align on cannot be used with their labels; None if they can."""
        annotations, names = read_annotations(self.sets.align), sample_ids(self.sets.align)
        chosen = (annotations[names[row]] for row in _order(len(names))[:count])
        return next(filter(None, (_flaw(annotation, self.body) for annotation in chosen)), None)

    def labels(self, count: int) -> Sequence[Labelled]:
        return _labelled(self.sets.align, self.body, count).cases

    def home_labels(self, count: int) -> Sequence[Labelled]:
        return self.calibration(count).cases

    def calibration(self, count: int) -> LabelledSet:
        return _labelled(self.sets.calibrate, self.body, count, self._instruments)

    def to_compare(self, images: int, calibration: int) -> CriticImages | None:
        """None without a set for it."""
        if self.sets.compare is None:
            return None
        tests = _labelled(self.sets.compare, self.body, images, self._instruments)
        return CriticImages(tests, self.calibration(calibration), self.body, self.detector)

    def evaluate(self, policy: StudyPolicy, evaluation: Evaluation, stage: Stage) -> Report:
        """The scorer, if any, picks among all M. Raises ValueError if no person has every joint of the protocol."""
        report = evaluate_annotated(
            policy, self.detector, self.test, self.bodies,
            num_samples=evaluation.samples, seed=evaluation.seed, stage=stage, limit=self.limit,
            scorer=evaluation.scorer, minima=evaluation.minima,
        )  # fmt: skip
        return _by_person(report, self.test)

    def true_bodies(self, stage: Stage) -> None:
        return None

    @cached_property
    def _instruments(self) -> str:
        """Hash of what results depend on besides images and policy: bodies, regressor and detector."""
        bodies = {"": self.bodies.body, **self.bodies.by_gender}
        parts = [f"{gender}{body.digest()}" for gender, body in sorted(bodies.items())]
        regressor = self.bodies.regressor
        detector = detector_digest(self.detector) or self.detector.name
        return digest(*parts, detector, b"" if regressor is None else regressor.numpy().tobytes())


def _by_person(report: AnnotatedReport, folder: Path) -> Report:
    rows = [row for row in report.per_person if ERRORS[0] in (row["errors_mm"] or {})]
    if not rows:
        raise ValueError(f"no person in {folder} has all joints of the protocol {report.protocol}")
    values = {
        metric: {name: np.array([row["errors_mm"][metric][name] for row in rows]) for name in reductions}
        for metric, reductions in rows[0]["errors_mm"].items()
        if metric in ERRORS
    }
    return Report(tuple(f"{row['image']}#{row['person']}" for row in rows), values, ())


def _labelled(folder: Path, body: Body, count: int, instruments: str = "") -> LabelledSet:
    """`count` people whose fit can be used. Raises ValueError if there are fewer than two."""
    annotations, names = read_annotations(folder), sample_ids(folder)
    flaws = [_flaw(annotations[name], body) for name in names]
    rows = [row for row in _order(len(names)) if flaws[row] is None][:count]
    samples = read_samples(folder)
    if len(rows) < 2:
        raise ValueError(
            f"{folder} has {len(rows)} people to learn from: {next(filter(None, flaws), 'it is empty')}"
        )
    renderer = load_renderer()

    def read(row: int) -> Labelled:
        sample = samples[row]
        return labelled_of(sample, annotations[sample.id], {NEUTRAL: body}, renderer)

    taken = [names[row] for row in rows]
    return LabelledSet(folder.name, _Read(rows, read), digest(_content(folder), instruments, *taken))


def _order(count: int) -> list[int]:
    """The rows of a set in a random order, always the same."""
    return np.random.default_rng(0).permutation(count).tolist()


class _Read(Sequence[Labelled]):
    """People that are decoded, posed and rendered when they are read: whole photographs do not fit into memory."""

    def __init__(self, rows: Sequence[int], read: Callable[[int], Labelled]) -> None:
        self._rows, self._read = rows, read

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Labelled]: ...

    def __getitem__(self, index: int | slice) -> Labelled | Sequence[Labelled]:
        rows = self._rows[index]
        return self._read(rows) if isinstance(rows, int) else _Read(rows, self._read)


def _flaw(annotation: Annotation, body: Body) -> str | None:
    """Why a critic or a policy cannot learn from the fit of this person; None if it can."""
    fit = annotation.smpl
    if fit is None:
        return f"{annotation.name} has no SMPL parameters"
    missing = {"betas": fit.betas, "position in the camera frame": fit.placement, "camera": annotation.camera}
    for name, value in missing.items():
        if value is None:
            return f"{annotation.name} has no {name}"
    if fit.gender != NEUTRAL:
        return f"{annotation.name} has the parameters of a {fit.gender or 'unknown'} body, not of the neutral one"
    if fit.model != body.name:
        return f"{annotation.name} has parameters of {fit.model}; the body given is {body.name}"
    return None


def _content(folder: Path) -> Any:
    return read_json(folder / "set.json", ("digest",))["digest"]

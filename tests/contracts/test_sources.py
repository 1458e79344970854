"""What every data set's reader owes, on a tiny data set in its true layout; a new one adds a writer to LAYOUTS."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hmr.datasets.annotated_set import prepare, read_annotations
from hmr.datasets.annotation import Annotation
from hmr.datasets.sources import SOURCES, source_of
from hmr.synthetic.store import read_samples
from tests.hmr.datasets.layouts import LAYOUTS


def same(one: object, other: object) -> bool:
    """Equal to the bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(same(v, vars(other)[k]) for k, v in vars(one).items())
    return one == other


@pytest.fixture(params=sorted(LAYOUTS))
def laid(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, str]:
    folder = tmp_path / "data"
    folder.mkdir()
    return request.param.split()[0], folder, LAYOUTS[request.param](folder)


def test_every_source_has_a_layout():
    assert {layout.split()[0] for layout in LAYOUTS} == set(SOURCES)


def read(laid: tuple[str, Path, str]) -> list[Annotation]:
    name, folder, split = laid
    return list(source_of(name, split).read(str(folder), split))


def test_every_person_has_a_name_a_box_an_image_and_some_truth(laid):
    annotations = read(laid)
    assert len({annotation.name for annotation in annotations}) == len(annotations) > 0
    for annotation in annotations:
        assert (laid[1] / annotation.image).is_file()
        assert annotation.box.side > 0
        assert annotation.smpl or annotation.joints or annotation.keypoints


def test_joints_fill_their_conventions_in_metres(laid):
    for annotation in read(laid):
        for joints in annotation.joints:
            assert joints.positions_m.shape == (len(joints.convention), 3)
            assert joints.known.any()
            assert joints.positions_m[joints.known].norm(dim=1).max() < 20  # not millimetres
        for keypoints in annotation.keypoints:
            assert keypoints.positions_px.shape == (len(keypoints.convention), 2)
            assert 0 <= keypoints.confidence.min() <= keypoints.confidence.max() <= 1


def test_a_prepared_set_contains_the_annotations_of_the_source(laid, tmp_path):
    name, folder, split = laid
    before = read(laid)
    out = prepare(SOURCES[name], str(folder), split, str(tmp_path / "set"))
    after = read_annotations(str(out))
    samples = read_samples(out)
    assert len(samples) == len(before) == len(after)
    for annotation, sample in zip(before, samples, strict=True):
        assert same(replace(annotation, image_size=None), after[sample.id])  # checked, and not stored
        assert sample.box == annotation.box
        assert sample.image.shape[2] == 3
        assert annotation.image not in sample.id


def test_an_empty_folder_is_refused_with_the_missing_file(laid, tmp_path):
    name, _, split = laid
    with pytest.raises(FileNotFoundError, match=r"there is no .* (at|in) .*elsewhere"):
        list(SOURCES[name].read(tmp_path / "elsewhere", split))


def test_unknown_splits_and_sources_are_refused():
    with pytest.raises(ValueError, match=r"no data set 'h36m'; supported are human36m, 3dpw"):
        source_of("h36m", "test")
    with pytest.raises(ValueError, match=r"no split 'val'; its splits are train, validation, test"):
        source_of("3dpw", "val")

"""The data sets that `meshcritic data prepare` supports, by name. A new one adds a line."""

from __future__ import annotations

from hmr.datasets.annotation import Source
from hmr.datasets.coco_keypoints import COCO_KEYPOINTS
from hmr.datasets.emdb import EMDB
from hmr.datasets.hmr2 import BEDLAM, HMR2, SPIN
from hmr.datasets.human36m import HUMAN36M
from hmr.datasets.humandata import HUMANDATA
from hmr.datasets.pw3d import PW3D
from hmr.datasets.pw3d_coco import PW3D_COCO

__all__ = ["SOURCES", "source_of"]

SOURCES = {
    source.name: source
    for source in (HUMAN36M, PW3D, PW3D_COCO, HUMANDATA, HMR2, SPIN, BEDLAM, EMDB, COCO_KEYPOINTS)
}


def source_of(name: str, split: str) -> Source:
    """Raises ValueError, with the supported names, for an unknown source or split."""
    if name not in SOURCES:
        raise ValueError(f"there is no data set {name!r}; supported are {', '.join(SOURCES)}")
    source = SOURCES[name]
    if source.splits and split not in source.splits:
        raise ValueError(f"{name} has no split {split!r}; its splits are {', '.join(source.splits)}")
    return source

"""Speed of rendering scenes, and of feeding cached crops to a trainer.

    python -m benchmarks.scenes [--scenes 1600] [--workers 2]
    python -m benchmarks.scenes --sheet docs/images/scenes.jpg       # writes a picture of 64 scenes instead
    python -m benchmarks.scenes --sheet docs/images/studio-street.jpg --split studio-test --split street-test --each 12

Targets on two cores: 150 images per second at 224 x 224, including JPEG; 1,000 crops per second from the cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.render.overlay import montage
from hmr.synthetic.recipe import LAB
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_samples

SPLITS = ("lab-test", "wild-test")
SHEET_PX = 128
CROP_SIZE, CROP_SCALE, BATCH = 128, 1.2, 64  # the shipped policy's


def main(
    scenes: int = 1600,
    workers: int = 2,
    sheet: Path | None = None,
    split: list[str] = list(SPLITS),  # noqa: B006  (typer does not change it)
    each: int = 32,
) -> None:
    if sheet is not None:
        _draw_sheet(sheet, split, each)
        return
    table = Table("what", "per second", title=f"{scenes} scenes, {workers} processes")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in split:
            draw_split(name, root / "warm", 32 * workers, workers=workers)  # numba compiles
            start = time.perf_counter()
            draw_split(name, root, scenes, workers=workers)
            table.add_row(f"{name}, drawn and written", _rate(scenes, start))
        start = time.perf_counter()
        crops = make_crops(CropCache(LAB, 99, scenes, CROP_SIZE, CROP_SCALE), root, workers)
        table.add_row("lab crops with their targets, drawn and written", _rate(scenes, start))
        start = time.perf_counter()
        for _ in DataLoader(CropDataset(crops, mirrored=True), BATCH, shuffle=True):
            pass
        table.add_row("crops fed from the cache, mirrored copies included", _rate(2 * scenes, start))
    Console().print(table)


def _draw_sheet(file: Path, splits: Sequence[str], each: int) -> None:
    """The first scenes of each split, one split over the other."""
    columns = 8 if each % 8 == 0 else 6
    with tempfile.TemporaryDirectory() as folder:
        pictures = [
            np.asarray(Image.fromarray(sample.image).resize((SHEET_PX, SHEET_PX)))
            for split in splits
            for sample in read_samples(draw_split(split, Path(folder), each))
        ]
    Image.fromarray(montage(pictures, columns)).save(file, quality=85)


def _rate(count: int, start: float) -> str:
    return f"{count / (time.perf_counter() - start):,.0f}"


if __name__ == "__main__":
    typer.run(main)

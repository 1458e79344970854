"""The time from a photograph or a video to its files, and of sampling, on the test photograph.

    python -m benchmarks.performance.predict [--repeats 3] [--json]

Measured after start-up, with the models loaded and one photograph done. `one person` is a part of the test photograph
at 1,200 pixels, `ten people` the photograph twice, side by side; how many are found is printed. The video is the part
with one person, moved a little from frame to frame. Times are medians; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.performance.figure import Figure, at_most
from cli.photos.people import find_people
from cli.prediction.predictor import Predictor
from cli.prediction.run import Models, PredictSettings
from cli.prediction.sources import list_sources
from common.storage.jsonl import Manifest
from hmr.body.model import load_body
from hmr.images.photographs import load_photo
from hmr.policy.checkpoint import load_policy
from hmr.render import load_renderer

PHOTO = Path(__file__).parents[2] / "tests/data/photograph/basketball.jpg"
LONGER_SIDE_PX = 1200
ONE = (500, 260, 700, 533)  # x0, y0, x1, y1 of a part with one person
FRAMES, SHIFT_PX = 30, 4
GOALS_S = {
    "one person": 3.0,
    "ten people": 8.0,
    "100 hypotheses": 0.1,
    "1000 hypotheses": 0.6,
    "video frame": 0.2,
}


def measure(repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by name, and how many people were found."""
    models = Models(load_policy(detector="blazepose"), load_body(), load_renderer())
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(Path(folder))
        _predict(models, inputs["one person"], Path(folder) / "warm")
        seconds, people = {}, {}
        for name, path in inputs.items():
            times, counts = zip(
                *(_predict(models, path, Path(folder) / f"{name}-{k}") for k in range(repeats)), strict=True
            )
            frames = FRAMES if name == "video frame" else 1
            seconds[name], people[name] = median(times) / frames, counts[0] / frames
        seconds |= _sampling(models, inputs["one person"], repeats)
    return seconds, people


def figures() -> list[Figure]:
    seconds, people = measure(3)
    return [
        Figure(
            name, value, "s", goal=at_most(GOALS_S[name]), note=f"{people[name]:g} found" if name in people else ""
        )
        for name, value in seconds.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds, people = measure(options.repeats)
    if options.json:
        print(json.dumps({"seconds": seconds, "people": people, "goals": GOALS_S}))
        return
    for name, value in seconds.items():
        found = f", {people[name]:g} found" if name in people else ""
        print(f"{name}: {value:.3f} s (goal {GOALS_S[name]:g}){found}")


def _inputs(folder: Path) -> dict[str, Path]:
    photo = Image.open(PHOTO).convert("RGB")
    part = photo.crop(ONE)
    pair = np.concatenate([np.asarray(photo)] * 2, axis=1)
    inputs = {"one person": part, "ten people": Image.fromarray(pair)}
    paths = {}
    for name, picture in inputs.items():
        scale = LONGER_SIDE_PX / max(picture.size)
        enlarged = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        paths[name] = folder / f"{name.replace(' ', '-')}.png"
        enlarged.save(paths[name])
    frames = [photo.crop((ONE[0] - k * SHIFT_PX, *ONE[1:])) for k in range(FRAMES)]
    frames = [frame.resize((440, 600)) for frame in frames]
    paths["video frame"] = folder / "clip.gif"
    frames[0].save(paths["video frame"], save_all=True, append_images=frames[1:], duration=40)
    return paths


def _predict(models: Models, path: Path, out: Path) -> tuple[float, int]:
    """Seconds from the file to all output files, and the number of people."""
    out.mkdir()
    settings = PredictSettings(formats=("npz", "glb"))
    start = time.perf_counter()
    with Manifest(out / "manifest.jsonl") as manifest:
        predictor = Predictor(models, settings, out, manifest)
        outcomes = list(
            predictor.run(list_sources([path], out), lambda title, total: lambda done, note="": None)
        )
    seconds = time.perf_counter() - start
    return seconds, sum(len(outcome.record["people"]) for outcome in outcomes if outcome.record)


def _sampling(models: Models, path: Path, repeats: int) -> dict[str, float]:
    photo, policy = load_photo(path), models.policy
    found, _ = find_people(photo, path.name, policy.detector, [])
    samples, detections = [found[0].sample], [found[0].detection]

    def sample(count: int) -> None:
        policy.sample(policy.encode(samples, detections), count, torch.Generator().manual_seed(0))

    return {
        f"{count} hypotheses": _median_s(lambda count=count: sample(count), repeats) for count in (100, 1000)
    }


def _median_s(run: Callable[[], None], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()

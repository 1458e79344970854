"""Predicts the people of photographs and videos, one picture at a time, so that memory does not grow with their number.

    OUT/NAME-0-overlay.png ...     per person of a photograph (cli.photos.person_files); subfolders of an input folder
                                   are kept
    OUT/CLIP-overlay.mp4 ...       of a video (cli.prediction.videos)
    OUT/manifest.jsonl             finished items; a second run continues after them

A finished item is computed again if its input file, the models or a setting have changed, or if one of its output files
is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cli.photos.people import Person
from cli.photos.person_files import save_people, save_person
from cli.prediction.run import ITEM_FAILURES, Models, Outcome, PredictionRun, PredictSettings, reason_of
from cli.prediction.sources import Source
from cli.prediction.videos import predict_video
from common.progress import Stage
from common.storage.jsonl import Manifest, Record
from hmr.images.photographs import load_photo

__all__ = ["Predictor"]


class Predictor:
    """Finds the people of pictures, samples hypotheses, writes the files, and records finished items."""

    def __init__(self, models: Models, settings: PredictSettings, out: Path, manifest: Manifest) -> None:
        self._run = PredictionRun(models, settings, out, manifest)

    def run(self, sources: Sequence[Source], stage: Stage) -> Iterator[Outcome]:
        """One outcome per photograph; for a video one per processed frame and one for the whole. In the given order."""
        stills = sum(not source.is_video for source in sources)
        tick, done = stage("photographs", stills) if stills > 1 else lambda _: None, 0
        for source in sources:
            if source.is_video:
                yield from predict_video(self._run, source, stage)
            else:
                yield self._photograph(source)
                done += 1
                tick(done)

    def _photograph(self, source: Source) -> Outcome:
        run, fingerprint = self._run, self._run.fingerprint(source)
        if record := run.finished(source.name, fingerprint):
            return Outcome(source, None, record, earlier=True)
        try:
            photo = load_photo(source.path)
            found, messages = run.find(photo, source.title(), run.models.policy.detector)
            record = {
                "name": source.name,
                "fingerprint": fingerprint,
                "messages": messages,
                "photo": str(source.path.resolve()),
                "camera": run.describe_camera(photo),
                **self._write(source.name, run.sample(found)),
            }
        except ITEM_FAILURES as error:
            return Outcome(source, None, None, reason_of(error))
        run.finish(record)
        return Outcome(source, None, record)

    def _write(self, name: str, people: Sequence[Person]) -> Record:
        models, stem = self._run.models, self._run.out / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        written = []
        for number, person in enumerate(people):
            files = save_person(
                stem.with_name(f"{stem.name}-{number}"), person, models.body, models.renderer,
                formats=self._run.settings.formats, with_skeleton=self._run.settings.skeleton,
            )  # fmt: skip
            written.append(self._run.describe_person(person, files))
        if len(people) < 2:
            return {"people": written}
        overview = stem.with_name(f"{stem.name}-people.png")
        save_people(overview, people, models.body, models.renderer)
        return {"people": written, "overlay": str(overview)}

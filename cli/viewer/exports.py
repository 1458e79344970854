"""What the page exports: the selected body as GLB, OBJ or BVH, or its group as npz."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from cli.photos.person_files import FORMATS, save_format
from cli.viewer.contents import Selection, ShownPhoto
from hmr.body.model import Body
from hmr.types import Hypotheses

__all__ = ["EXPORTS", "export"]

EXPORTS = FORMATS


def export(kind: str, shown: ShownPhoto, selection: Selection, source: int, body: Body) -> tuple[str, bytes]:
    """The name and the content of a file: the selected hypothesis of a source at the selected step, or as npz the whole
    group (docs/reference/hypotheses-file.md)."""
    one = shown.people[selection.person]
    params = one.sources[source].at(selection.step)
    person = dataclasses.replace(one.person, hypotheses=Hypotheses(params, one.person.hypotheses.camera))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"body.{kind}"
        save_format(kind, path, person, params[selection.hypothesis], body)
        return f"{_stem(shown, selection, source)}.{kind}", path.read_bytes()


def _stem(shown: ShownPhoto, selection: Selection, source: int) -> str:
    """The person, and what tells the file from others of that person: source, step and hypothesis."""
    one = shown.people[selection.person]
    parts = [one.name]
    if len(one.sources) > 1:
        parts.append("".join(c if c.isalnum() else "-" for c in one.sources[source].label).strip("-"))
    if selection.step < len(one.sources[source].steps):
        parts.append(f"step{selection.step}")
    return "-".join([*parts, f"h{selection.hypothesis}"])

"""The detector of photographs by default, with and without an explored memory."""

import json
from pathlib import Path

import pytest

from agent.exploration.record import EXPLORED
from cli.photos.detectors import choose_detector


@pytest.mark.parametrize(
    ("explored", "chosen"),
    [(None, "blazepose"), ("embedded", "blazepose"), ("transformers:a,b,c", "transformers:a,b,c")],
)
def test_the_detector_of_a_memory_is_the_default_if_it_reads_photographs(
    tmp_path: Path, explored: str | None, chosen: str
) -> None:
    if explored:
        (tmp_path / EXPLORED).write_text(json.dumps({"made_from": {"detector": explored}}))
    assert choose_detector(None, None, [], tmp_path) == chosen
    assert choose_detector(None, None, []) == "blazepose"
    assert choose_detector("embedded", None, [], tmp_path) == "embedded"

"""Faults: processes that are killed or stopped, full disks, damaged files, several writers, and mutated input.

Real processes are really killed, at points drawn with a fixed seed. By default there are a few kills per command and
1,000 updates in total by the eight writers, so that the folder takes minutes. The environment asks for more:

    MESHCRITIC_KILLS=30 python -m pytest -m slow tests/faults/test_kills.py -s     30 kills per job
    MESHCRITIC_UPDATES=1000 python -m pytest -m slow tests/faults/test_writers.py  1,000 updates per writer
    MESHCRITIC_INPUTS=200000 python -m pytest -m slow tests/faults/test_fuzzed_readers.py -s
                                                                                   200,000 inputs per reader

docs/results/faults.md has the counts of such runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from hmr.body.model import Body
from tests.faults.client import ForkServer
from tests.hmr.policy.tiny_policy import make_tiny_policy

INPUTS = os.environ.get("MESHCRITIC_INPUTS")
settings.register_profile(
    "readers",
    max_examples=int(INPUTS or 300),
    derandomize=INPUTS is None,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # an input of kilobytes takes minutes to shrink
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("readers")


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def base(body: Body, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small policy."""
    folder = tmp_path_factory.mktemp("policy")
    make_tiny_policy(body).save_pretrained(folder)
    return folder

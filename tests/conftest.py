"""What all tests share: settings of the environment, the embedded body, and a small policy."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
os.environ["MESHCRITIC_FEATURE_CACHE"] = "off"  # no test writes into the home of whoever runs it

import tests.type_checks  # noqa: F401 - before the packages that it checks

# isort: split
import pytest

from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import PersonEncoder
from hmr.policy.policy import DiffusionPolicy
from tests.hmr.policy.tiny_policy import make_tiny_policy


def pytest_collection_finish() -> None:
    """accelerate collects garbage before and after every training; without this it would visit, each time, the million
    objects that the imports left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body()


@pytest.fixture
def tiny_policy(body: Body) -> DiffusionPolicy:
    return make_tiny_policy(body)


@pytest.fixture
def tiny_encoder(tiny_policy: DiffusionPolicy) -> PersonEncoder:
    """The encoder of the policy's detector."""
    assert isinstance(tiny_policy.detector, EmbeddedDetector)
    return tiny_policy.detector.encoder

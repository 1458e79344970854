import pytest

from hmr.body.model import Body
from hmr.types import Sample
from tests.rl.street_scenes import street_samples


@pytest.fixture(scope="module")
def samples(body: Body) -> list[Sample]:
    return street_samples(body)

import pytest

from hmr.body.model import Body
from hmr.synthetic.recipe import STREET
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Sample


@pytest.fixture(scope="module")
def samples(body: Body) -> list[Sample]:
    return [scene.labelled.sample for scene in SceneMaker(body, STREET, seed=5).chunk(0, 3)]

"""`meshcritic mcp` in another process, asked by the SDK's own client over stdio."""

import base64
import io
import sys
from pathlib import Path

import anyio
import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image

from agent.default import open_default_memory
from agent.image_embedding import load_image_embedder
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from memory.prototype_memory import Prototype
from tests.hmr.policy.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.slow  # processes of their own

ROOT = Path(__file__).parents[3]
COUNT = 3
CASE = {"photo": "photo.png", "hypotheses": "h.npz"}


def write_case(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    np.savez(
        folder / "h.npz",
        global_orient=np.tile([np.pi, 0.0, 0.0], (COUNT, 1)),
        body_pose=np.linspace(0, 0.3, COUNT)[:, None] * np.ones((1, 69)),
        betas=np.zeros((COUNT, 10)),
        transl=np.tile([0.0, 0.2, 4.0], (COUNT, 1)),
        focal_px=np.array(150.0),
        center_px=np.array([45.0, 60.0]),
        image_size=np.array([90, 120]),
    )


def write_memory(folder: Path, policy: DiffusionPolicy) -> None:
    """The seed rules and one prototype."""
    with open_default_memory(folder, policy, frozen=False) as memory:
        prototype = Prototype.create("case", "the knees agree", 80.0, ["pose:upright"], {}, {})
        embedder = load_image_embedder("embedded", policy.detector.encoder_cache, "cpu")
        memory.prototypes.add([(prototype, np.ones(embedder.dim))])


CALLS = {
    "measure": ("measure", {**CASE, "measurement": "joint_limits"}),
    "render": ("render", {**CASE, "hypothesis": "1", "azimuth_deg": 180}),
    "zoom": ("zoom", {**CASE, "hypothesis": "2", "part": "left hand"}),
    "recall": ("recall_rules", {"query": "a sitting person", "tags": ["pose:sitting"]}),
    "prototypes": ("list_prototypes", {}),
    "other memory": ("list_prototypes", {"memory": "memory"}),
    "critique": ("critique", CASE),
    "critique with memory": ("critique", {**CASE, "memory": "memory"}),
    "absolute path": ("measure", {**CASE, "photo": "{root}/photo.png", "measurement": "joint_limits"}),
    "unknown tool": ("delete_files", {}),
    "unknown measurement": ("measure", {**CASE, "measurement": "beauty"}),
    "missing argument": ("measure", {"measurement": "joint_limits"}),
    "unknown argument": ("list_prototypes", {"secret": 1}),
    "unknown hypothesis": ("zoom", {**CASE, "hypothesis": "3", "part": "head"}),
    "NaN": ("render", {**CASE, "hypothesis": "1", "azimuth_deg": "NaN"}),
    "unknown person": ("critique", {**CASE, "person": 1}),
    "traversal": ("critique", {**CASE, "photo": "../outside.png"}),
    "absolute path outside": ("critique", {**CASE, "photo": "/etc/passwd"}),
    "link outside": ("critique", {**CASE, "photo": "link.png"}),
    "memory outside": ("list_prototypes", {"memory": ".."}),
    "no such file": ("critique", {**CASE, "photo": "gone.png"}),
    "not a photograph": ("critique", {**CASE, "photo": "h.npz"}),
    "not hypotheses": ("critique", {**CASE, "hypotheses": "photo.png"}),
    "no memory": ("list_prototypes", {"memory": "empty"}),
    "NUL": ("critique", {**CASE, "photo": "a\0b"}),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory, body):
    """The server's tools and its answers to CALLS, of one connection."""
    folder = tmp_path_factory.mktemp("mcp")
    root = folder / "root"
    (root / "empty").mkdir(parents=True)
    write_case(root)
    (folder / "outside.png").write_bytes((root / "photo.png").read_bytes())
    (root / "link.png").symlink_to(folder / "outside.png")
    make_tiny_policy(body).save_pretrained(folder / "policy")
    write_memory(root / "memory", load_policy(folder / "policy", "cpu", "embedded"))
    words = ["-m", "meshcritic", "mcp", "--root", str(root), "--policy", str(folder / "policy")]
    server = StdioServerParameters(
        command=sys.executable,
        args=[*words, "--detector", "embedded"],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1"},
    )

    async def talk():
        async with Client(server, read_timeout_seconds=200) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            answers = {}
            for name, (tool, arguments) in CALLS.items():
                filled = {
                    key: value.replace("{root}", str(root)) if isinstance(value, str) else value
                    for key, value in arguments.items()
                }
                answers[name] = await client.call_tool(tool, filled)
            return tools, answers

    return anyio.run(talk)


@pytest.fixture
def tools(session):
    return session[0]


@pytest.fixture
def answers(session):
    return session[1]


def said(answer) -> str:
    return answer.content[0].text


def test_the_tools_describe_their_arguments(tools):
    assert list(tools) == ["measure", "render", "zoom", "recall_rules", "list_prototypes", "critique"]
    schema = tools["measure"].input_schema
    assert sorted(schema["required"]) == ["hypotheses", "measurement", "photo"]
    assert "reprojection" in schema["properties"]["measurement"]["enum"]
    assert all(tool.description for tool in tools.values())


def test_a_measurement_has_a_value_and_a_sentence_per_hypothesis(answers):
    answer = answers["measure"]
    assert not answer.is_error
    data = answer.structured_content
    assert data["unit"] == "deg"
    assert list(data["values"]) == list(data["sentences"]) == ["0", "1", "2"]
    assert data["metric"] in said(answer)
    assert answers["absolute path"].structured_content == data


@pytest.mark.parametrize(("name", "tiles"), [("render", 1), ("zoom", 2)])
def test_pictures_are_pngs(answers, name, tiles):
    text, picture = answers[name].content
    shown = Image.open(io.BytesIO(base64.b64decode(picture.data)))
    assert (picture.mime_type, shown.format) == ("image/png", "PNG")
    assert round(shown.width / shown.height) == tiles
    assert np.asarray(shown).std() > 5
    assert "hypothesis" in text.text


def test_rules_and_prototypes_of_the_memory(answers):
    rules = answers["recall"].structured_content["rules"]
    assert rules
    assert {"text", "psi", "uses"} <= rules[0].keys()
    assert answers["prototypes"].structured_content == {"count": 0, "prototypes": []}
    assert not answers["other memory"].is_error, said(answers["other memory"])
    known = answers["other memory"].structured_content
    assert known["count"] == 1
    assert known["prototypes"][0]["rationale"] == "the knees agree"
    assert "the knees agree" in said(answers["other memory"])


def test_a_critique_has_scores_and_comments(answers):
    data = answers["critique"].structured_content
    assert len(data["scores"]) == len(data["comments"]) == COUNT
    assert all(0 <= score <= 100 for score in data["scores"])
    assert said(answers["critique"]).splitlines()[0].startswith("0: ")
    assert not answers["critique with memory"].is_error


REFUSALS = {
    "unknown tool": "there is no tool 'delete_files'; there are measure, render, zoom,",
    "unknown measurement": "measure: measurement: Input should be 'reprojection'",
    "missing argument": "measure: photo: Field required; hypotheses: Field required",
    "unknown argument": "list_prototypes: secret: Extra inputs are not permitted",
    "unknown hypothesis": "hypothesis must be one of 0, 1, 2, not '3'",
    "NaN": "render: azimuth_deg: Input should be a valid number",
    "unknown person": "person must be below 1, the people in h.npz, not 1",
    "traversal": "photo must be in ",
    "absolute path outside": "photo must be in ",
    "link outside": "photo must be in ",
    "memory outside": "memory must be in ",
    "no such file": "photo: there is no 'gone.png'",
    "not a photograph": "h.npz",
    "not hypotheses": "photo.png is not an npz archive",
    "no memory": "there is no memory",
    "NUL": "photo is not a path: 'a\\x00b'",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_a_tool_error_of_one_sentence(answers, name):
    answer = answers[name]
    assert answer.is_error
    assert REFUSALS[name] in said(answer)
    assert "Traceback" not in said(answer)
    assert "\n" not in said(answer)
    assert len(answer.content) == 1

"""`meshcritic align --photos` on photographs of plain colours: people held out, resumption, the report, the errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

from agent.default import open_default_memory
from common import plugins
from eval.pipelines.photographs import split_people
from hmr.body.keypoint_orders import COCO_17
from hmr.detection.blazepose import finder as finder_module
from hmr.detection.loading import ENTRY_POINT_GROUP
from hmr.detection.photo_people.folder import PhotoPerson
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box
from rl.preferences.build import load_preferences
from tests.command import call
from tests.hmr.detection.photo_people.finder import CountingFinder

PHOTO = Path(__file__).parents[2] / "data" / "photograph" / "basketball.jpg"
TINY = {"loss_type": "weighted", "max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"}
REWARD = "def near(*, hypotheses, **kwargs):\n    return (-hypotheses.params.transl[:, 2]).tolist()\n"
PEOPLE = 6  # two in each of three photographs
Align = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 30), (200, ord(name), 0)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def align(
    tiny_policy: DiffusionPolicy,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Align:
    """Runs the command on the photographs, which `CountingFinder` reads, with an output folder and further words."""
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    (tmp_path / "rewards.py").write_text(REWARD)
    point = EntryPoint("mine", f"{CountingFinder.__module__}:CountingFinder", ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == ENTRY_POINT_GROUP else [])

    def run(out: str, *words: object) -> tuple[int, str, str]:
        files = ("--policy", tmp_path / "base", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / out)
        usual = ("--photos", photos, "--detector", "mine:counting", "--group-size", 3)
        return call(monkeypatch, capsys, "align", *files, *usual, *words)

    return run


@pytest.fixture
def reward(tmp_path: Path) -> tuple[str, str]:
    return "--critic", f"reward:{tmp_path / 'rewards.py'}:near"


def save_annotations(path: Path, file_name: str, size: tuple[int, int] = (40, 30)) -> Path:
    """Of the first person of a photograph: all keypoints at one place, in the middle of its box."""
    image = {"id": 3, "file_name": file_name, "width": size[0], "height": size[1]}
    keypoints = [8, 15, 2] * len(COCO_17)
    person = {"id": 1, "image_id": 3, "bbox": [4, 3, 8, 24], "keypoints": keypoints}
    path.write_text(json.dumps({"images": [image], "annotations": [person]}))
    return path


def test_one_person_in_five_is_held_out() -> None:
    everybody = [
        PhotoPerson(f"a.png-{n}", Path("a"), Path("f"), n, Box(0.0, 0.0, 1.0, 1.0)) for n in range(23)
    ]
    held_out, aligned_on = split_people(everybody, seed=0)
    assert (len(held_out), len(aligned_on)) == (4, 19)
    assert {*held_out, *aligned_on} == {*everybody}
    assert {*held_out} == {*split_people(everybody[::-1], seed=0)[0]}
    assert {*held_out} != {*split_people(everybody, seed=1)[0]}
    assert split_people(everybody[:4], seed=0)[0] == []


@pytest.mark.slow
def test_people_are_aligned_on_and_those_held_out_are_reported(
    align: Align, reward: tuple[str, str], tmp_path: Path
) -> None:
    code, out, err = align("out", *reward, "--rounds", 2, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert (record["uses_truth"], record["detector"], record["images"]) == (False, "counting", PEOPLE - 1)
    groups = [
        sample_id
        for number in (0, 1)
        for sample_id in load_preferences(tmp_path / "out" / f"round-{number}" / "groups")["sample_id"]
    ]
    report = json.loads((tmp_path / "out" / "photos.json").read_text())
    parts = {person["id"]: person["part"] for person in report["persons"]}
    assert sorted(groups) == sorted(name for name, part in parts.items() if part == "aligned on")
    assert report["people"] == {"held_out": 1, "aligned_on": PEOPLE - 1}
    assert (report["policy"], report["base_policy"]) == (record["policy"], record["base_policy"])
    assert not list((tmp_path / "out").rglob("*truth*"))
    assert not (tmp_path / "out" / "scenes").exists()
    (held_out,) = (person for person in report["persons"] if person["part"] == "held out")
    assert held_out["before"].keys() == {
        "reprojection_px",
        "reprojection_percent",
        "silhouette_mismatch",
        "joint_limit_excess_deg",
        "spread_mm",
    }
    px, percent = (held_out["before"][name]["hyp0"] for name in ("reprojection_px", "reprojection_percent"))
    assert percent == pytest.approx(100 * px / 24)  # the longer side of the box
    assert held_out["before"] != held_out["after"]
    page = (tmp_path / "out" / "photos.html").read_text()
    assert f"{held_out['id']}, held out" in page
    pictures = set(re.findall('data:image/webp;base64,([A-Za-z0-9+/=]+)"', page))
    assert len(pictures) == 5  # the photograph, and two layers and side views


@pytest.mark.slow
def test_a_second_run_finds_nobody_again_and_gives_the_same_policy(
    align: Align, reward: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert align("out", *reward)[0] == 0
    digest = load_policy(tmp_path / "out").digest()
    searched: list[object] = []
    monkeypatch.setattr(CountingFinder, "find", lambda self, image: searched.append(image) or [])
    (tmp_path / "out" / "photos.json").unlink()
    assert align("out", *reward)[0] == 0
    assert load_policy(tmp_path / "out").digest() == digest
    assert (tmp_path / "out" / "photos.json").exists()
    assert searched == []


@pytest.mark.slow
def test_the_agent_has_its_seed_rules_and_does_not_read_the_people_again(
    align: Align, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    detect = CountingFinder.detect_batch

    def counted(self: CountingFinder, samples):
        asked.extend(sample.detection is not None and sample.box.x0 in (4.0, 13.0) for sample in samples)
        return detect(self, samples)

    monkeypatch.setattr(CountingFinder, "detect_batch", counted)
    code, out, err = align("out", "--json")
    assert code == 0, err
    assert (json.loads(out)["memory"], json.loads(out)["scorer"]) == ("seed-rules", "agent:embedded")
    assert not any(asked)
    assert not (tmp_path / "out" / "groups").exists()  # nothing was explored
    code, out, _ = align("counted", "--dry-run", "--json")
    assert (code, json.loads(out)["dry_run"]["by_task"]["tag"]) == (0, PEOPLE - 1)
    assert not (tmp_path / "counted").exists()


@pytest.mark.slow
def test_annotated_points_are_reported_and_a_broken_photograph_is_left_out(
    align: Align, reward: tuple[str, str], photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").write_text("no image")
    file = save_annotations(tmp_path / "coco.json", "a.png")
    code, _, err = align("out", *reward, "--keypoints", file)
    assert code == 0, err
    assert f"left out: {photos / 'broken.jpg'}: not an image that can be read" in err
    report = json.loads((tmp_path / "out" / "photos.json").read_text())
    annotated = [person for person in report["persons"] if "annotated_px" in person["before"]]
    assert [person["id"] for person in annotated] == ["a.png-0"]
    assert report["keypoints"] == "coco.json"
    assert any(line.startswith("left out: ") for line in report["messages"])


WRONG = {
    "the truth": (
        ["--critic", "noisy-truth:0.8"],
        "noisy-truth:0.8 reads the ground truth, which photographs",
    ),
    "the shuffled truth": (
        ["--critic", "shuffled:noisy-truth:1"],
        "reads the ground truth, which photographs",
    ),
    "a critic of scenes": (["--critic", "hmr-scorer"], "hmr-scorer is fitted on rendered scenes"),
    "the studio": (["--base", "studio"], "--base studio reads detections of rendered scenes"),
    "poses of scenes": (["--motion", "amass"], "--motion poses rendered scenes"),
    "no folder": (["--photos", "nowhere"], "nowhere: there is no such folder of photographs"),
    "an unknown critic": (["--critic", "nobody"], "no critic 'nobody'"),
    "an unknown detector": (["--detector", "nobody"], "no detector is called 'nobody'"),
    "no annotations": (["--keypoints", "nowhere.json"], "there is no keypoint file at nowhere.json"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_what_photographs_cannot_give_is_refused(align: Align, words: list[str], message: str) -> None:
    code, _, err = align("out", *words)
    assert (code, message in err, "Traceback" in err) == (2, True, False), err


def test_a_memory_of_another_detector_is_refused(align: Align, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with open_default_memory(memory, load_policy(tmp_path / "base"), frozen=False):
        pass
    (memory / "exploration.json").write_text(json.dumps({"made_from": {"detector": "embedded"}}))
    code, _, err = align("out", "--memory", memory)
    assert (code, "explored with the detector embedded, but this run uses counting" in err) == (2, True), err


def test_rendered_scenes_are_not_replayed(align: Align, reward: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps({**TINY, "replay_weight": 0.5}))
    code, _, err = align("out", *reward)
    assert (code, "replay_weight replays rendered scenes" in err) == (2, True)


def test_annotations_of_other_photographs_are_refused(
    align: Align, reward: tuple[str, str], tmp_path: Path
) -> None:
    file = save_annotations(tmp_path / "coco.json", "z.png")
    code, _, err = align("out", *reward, "--keypoints", file)
    assert (code, f"{file} annotates nobody who was found" in err) == (2, True)
    code, _, err = align("out", *reward, "--keypoints", save_annotations(file, "a.png", (41, 30)))
    assert (code, "belongs to an image of 41 x 30 pixels" in err) == (2, True)


def test_annotations_need_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "out", "--keypoints", "coco.json")
    code, _, err = call(monkeypatch, capsys, "align", *words)
    assert (code, "--keypoints coco.json annotates photographs; it needs --photos" in err) == (2, True)


def test_the_options_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(monkeypatch, capsys, "align", "--help")
    assert code == 0
    for words in ("--photos", "Folder of your own photographs", "--keypoints", "blazepose with --photos"):
        assert words in out, words


@pytest.mark.slow
def test_a_real_photograph(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """BlazePose by default, and the embedded agent."""
    monkeypatch.setattr(finder_module, "WINDOW_FRACTIONS", (1.0, 0.6))  # seconds count
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / PHOTO.name).write_bytes(PHOTO.read_bytes())
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    files = ("--policy", tmp_path / "base", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / "out")
    code, _, err = call(
        monkeypatch, capsys, "align", *files, "--photos", tmp_path / "photos", "--group-size", 3
    )
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "photos.json").read_text())
    assert report["detector"] == "blazepose"
    assert report["people"]["aligned_on"] >= 1
    assert json.loads((tmp_path / "out" / "alignment.json").read_text())["unscored_groups"] == 0

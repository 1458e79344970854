"""The command line: invalid input ends with one sentence and exit code 2, and every help page has a valid example."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.core import TyperCommand, TyperGroup

from cli.app import app
from hmr.policy.policy import DiffusionPolicy
from tests.command import call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def policy(tiny_policy: DiffusionPolicy, tmp_path: Path) -> Path:
    tiny_policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def group(count: int, **changes: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {
        "global_orient": np.tile([np.pi, 0.0, 0.0], (count, 1)),
        "body_pose": np.zeros((count, 69)),
        "betas": np.zeros((count, 10)),
        "transl": np.tile([0.0, 0.2, 4.0], (count, 1)),
        "focal_px": np.array(150.0),
        "center_px": np.array([45.0, 60.0]),
        "image_size": np.array([90, 120]),
    }
    return {**arrays, **changes}


INVALID_FILES = {
    "a group of one": (group(1), "at least 2"),
    "a parameter that is not a number": (group(3, betas=np.full((3, 10), np.nan)), "betas"),
    "a missing key": ({k: v for k, v in group(3).items() if k != "transl"}, "transl"),
    "a wrong shape": (group(3, betas=np.zeros((3, 4))), "betas"),
}


@pytest.mark.parametrize("fault", sorted(INVALID_FILES))
def test_an_invalid_hypotheses_file_is_rejected(fault, photo, policy, tmp_path, monkeypatch, capsys):
    arrays, names = INVALID_FILES[fault]
    np.savez(tmp_path / "h.npz", **arrays)
    words = ("critique", photo, "--hypotheses", tmp_path / "h.npz", "--policy", policy, "--out", tmp_path)
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert names in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


INVALID_OPTIONS = {
    "a missing photograph": (["predict", "nowhere.jpg"], "nowhere.jpg"),
    "not an image": (["predict", "text.jpg"], "not an image"),
    "an empty file": (["predict", "empty.png"], "not an image"),
    "a box of three numbers": (["predict", "photo.png", "--box", "1,2,3"], "four numbers"),
    "a box outside": (["predict", "photo.png", "--box", "500,500,600,600"], "outside"),
    "a box with swapped corners": (["predict", "photo.png", "--box", "50,50,10,10"], "x1 > x0"),
    "an enormous box": (["predict", "photo.png", "--box", "-1e9,-1e9,1e9,1e9"], "at most"),
    "a manifest of other records": (
        ["predict", "photo.png", "--out", "lists"],
        "line 1 of lists/manifest.jsonl",
    ),
    "a manifest that is not JSON": (
        ["predict", "photo.png", "--out", "texts"],
        "line 1 of texts/manifest.jsonl",
    ),
    "a box of low confidence": (["predict", "photo.png", "--box", "9,9,80,99"], "--accept-any-box"),
    "a photograph without people": (["predict", "photo.png"], "--box"),
    "an unknown format": (["predict", "photo.png", "--save", "npz,fbx"], "npz, obj, glb, bvh, not fbx"),
    "an unknown detector": (["predict", "photo.png", "--detector", "yolo"], "transformers"),
    "a folder without photographs": (["predict", "empty"], "no photograph"),
    "a video that is text": (["predict", "text.gif"], "not an image"),
    "a folder of invalid files": (["predict", "bad"], "any of the 2 pictures"),
    "a smoothed photograph": (["predict", "photo.png", "--smooth", "0.1"], "--smooth apply to videos"),
    "a focal length of zero": (["predict", "photo.png", "--focal", "0"], "--focal must be a positive number"),
    "a focal length that is no number": (["predict", "photo.png", "--focal", "nan"], "not nan"),
    "a center of one number": (["predict", "photo.png", "--center", "45"], "--center takes two numbers X,Y"),
    "a missing camera file": (["critique", "photo.png", "--camera", "K.json"], "no camera file at K.json"),
    "a camera file beside a focal length": (
        ["critique", "photo.png", "--camera", "K.json", "--focal", "90"],
        "cannot be combined",
    ),
    "a camera beside the camera of a file": (
        ["critique", "photo.png", "--hypotheses", "h.npz", "--focal", "90"],
        "--hypotheses has the camera",
    ),
    "missing keypoints": (["predict", "photo.png", "--keypoints", "k.json"], "no keypoint file at k.json"),
    "keypoints that are no JSON": (["predict", "photo.png", "--keypoints", "text.jpg"], "not a JSON file"),
    "keypoints beside a detector": (
        ["critique", "photo.png", "--keypoints", "nobody.json", "--detector", "embedded"],
        "--detector embedded cannot be combined with it",
    ),
    "keypoints of two photographs": (
        ["predict", "photo.png", "text.jpg", "--keypoints", "nobody.json"],
        "the people of one photograph, not of 2 inputs",
    ),
    "keypoints of a video": (
        ["predict", "text.gif", "--keypoints", "nobody.json"],
        "not of the video text.gif",
    ),
    "keypoints of nobody": (
        ["predict", "photo.png", "--keypoints", "nobody.json"],
        "the keypoint file holds no person",
    ),
    "one sample": (["predict", "photo.png", "--samples", "1"], "samples"),
    "an unknown backend": (
        ["critique", "photo.png", "--box", "9,9,80,99", "--accept-any-box", "--backend", "oracle"],
        "oracle",
    ),
    "a missing memory": (
        ["critique", "photo.png", "--box", "9,9,80,99", "--accept-any-box", "--memory", "none"],
        "no memory",
    ),
    "a missing policy": (["predict", "photo.png", "--policy", "elsewhere"], "no policy"),
    "a missing body model": (["predict", "photo.png", "--body", "SMPL.pkl"], "SMPL.pkl"),
    "an unknown detector to explore with": (["explore", "--detector", "yolo", "--out", "o"], "transformers"),
    "an unknown detector to align with": (["align", "--detector", "yolo", "--out", "o"], "transformers"),
    "a detector for a critic without one": (
        ["align", "--critic", "noisy-truth:1", "--detector", "transformers", "--out", "o"],
        "noisy-truth:1 does not",
    ),
    "a detector for the random critic": (
        ["critic-eval", "--critic", "random", "--detector", "transformers", "--out", "o"],
        "random does not",
    ),
    "an unknown split": (["evaluate", "--split", "moon"], "wild-test"),
    "an unknown start of the sampler": (
        ["evaluate", "--set", "start=heatmap"],
        "start is one of unit, distribution, not 'heatmap'",
    ),
    "an unknown setting of the sampler": (
        ["evaluate", "--set", "beta=3"],
        "the sampler's settings are solver",
    ),
    "scenes without the detections of the policy": (
        ["evaluate", "--detector", "simulated"],
        "give --split street-test",
    ),
    "an unknown base policy to evaluate": (["evaluate", "--base", "moon"], "there are shipped, studio"),
    "an unknown base policy to align": (
        ["align", "--base", "moon", "--out", "o"],
        "there are shipped, studio",
    ),
    "a config with an unknown key": (["demo", "--config", "bad.yaml"], "group_sise"),
    "a missing trace": (["trace", "."], "no trace"),
    "a file that is not a trace": (
        ["trace", "recording.jsonl"],
        "recording.jsonl has no trace records",
    ),
    "a folder for a reply cache": (
        ["critique", "photo.png", "--reply-cache", "empty"],
        "--reply-cache takes a new or an existing file",
    ),
    "a folder for a recording": (
        ["explore", "--record", "empty"],
        "--record takes a new or an existing file",
    ),
    "a reply cache in a file": (["explore", "--reply-cache", "text.jpg/c"], "text.jpg is a file"),
    "a reply cache that cannot be written": (
        ["explore", "--reply-cache", "/proc/c"],
        "--reply-cache takes a file that can",
    ),
    "an unknown tool": (
        ["critic-eval", "--without-tool", "sextant", "--out", "o"],
        "its tools are reprojection",
    ),
    "an exploration constant that is not finite": (
        ["critic-eval", "--ucb", "nan", "--out", "o"],
        "--ucb takes a finite number",
    ),
}


@pytest.mark.parametrize("fault", sorted(INVALID_OPTIONS))
def test_invalid_input_ends_in_one_sentence(fault, photo, policy, tmp_path, monkeypatch, capsys):
    words, names = INVALID_OPTIONS[fault]
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.gif").write_text("hello")
    (tmp_path / "recording.jsonl").write_text('{"recording": 1, "backend": "embedded"}\n')
    (tmp_path / "nobody.json").write_text('{"image_size": [90, 120], "people": []}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.png"):
        (tmp_path / "bad" / name).write_text("hello")
    (tmp_path / "bad.yaml").write_text("group_sise: 3\n")
    for name, text in (("lists", "[]\n"), ("texts", "garbage\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    if words[0] != "demo" and "--policy" not in words and words[0] != "trace":
        words = [*words, "--policy", str(policy)]
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert names in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "o").exists()


WRITERS = (
    *(f"{name} --out F" for name in ("demo", "explore", "pretrain", "evaluate", "align", "critic-eval", "check-vlm")),
    "predict photo.png --out F", "critique photo.png --out F", "critique photo.png --out F/below",
    "tune-critic model --memory m --out F", "explore --memory F", "pretrain --cache F",
    "data prepare coco . --split val2017 --out F",
)  # fmt: skip


@pytest.mark.parametrize("words", WRITERS)
def test_a_file_in_place_of_an_output_folder_is_named(words, photo, tmp_path, monkeypatch, capsys):
    (tmp_path / "F").write_text("mine")
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, *words.split())
    option = words.split()[-2]
    assert (code, out) == (2, "")
    assert err == f"meshcritic: {option} takes a new or an existing folder, and F is a file\n"
    assert (tmp_path / "F").read_text() == "mine"


def test_predict_writes_the_files_that_it_prints(photo, policy, tmp_path, monkeypatch, capsys):
    words = (
        "predict",
        photo,
        "--box",
        "10,10,80,110",
        "--accept-any-box",
        "--samples",
        2,
        "--policy",
        policy,
        "--out",
        tmp_path / "o",
        "--center",
        "44,61",
        "--json",
    )
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0
    (person,) = json.loads(out)["people"]
    assert person["camera"] == {"focal_px": 150.0, "cx_px": 44.0, "cy_px": 61.0, "focal_is_estimated": True}
    assert "focal length 150 px (estimated: the image diagonal), principal point 44, 61" in err
    assert person["bbox"] == [10.0, 10.0, 80.0, 110.0]
    assert {Path(file).suffix for file in person["files"]} == {".png", ".npz", ".glb"}
    assert all(Path(file).stat().st_size > 100 for file in person["files"])
    with Image.open(person["files"][0]) as overlay:
        assert overlay.size == (90, 120)


@pytest.fixture
def keypoints(tmp_path: Path) -> Path:
    """Two people: one with points alone, one with a box."""
    points = {
        "nose": [25, 20],
        "left_hip": [30, 60],
        "right_hip": [20, 60, 2.0],
        "left_ankle": [30, 100, None, 0.4],
    }
    people = [
        {"points": points},
        {"points": {"nose": [70, 30, 1.5]}, "bbox": [55, 20, 85, 110], "confidence": 0.8},
    ]
    (tmp_path / "people.json").write_text(json.dumps({"image_size": [90, 120], "people": people}))
    return tmp_path / "people.json"


def test_predict_takes_the_people_of_a_keypoint_file(photo, policy, keypoints, tmp_path, monkeypatch, capsys):
    words = (
        "predict",
        photo,
        "--keypoints",
        keypoints,
        "--guide",
        "--samples",
        2,
        "--save",
        "",
        "--policy",
        policy,
    )
    code, out, _ = call(monkeypatch, capsys, *words, "--out", tmp_path / "o", "--json")
    assert code == 0
    first, second = json.loads(out)["people"]
    assert first["bbox"] == [13.6, 13.6, 36.4, 106.4]  # 6.4 of 80 pixels about the points
    assert (second["bbox"], second["confidence"]) == ([55, 20, 85, 110], 0.8)
    assert first["detector"].startswith("keypoints:people.json@")


def test_critique_takes_the_people_of_a_keypoint_file(
    photo, policy, keypoints, tmp_path, monkeypatch, capsys
):
    words = (
        "critique",
        photo,
        "--keypoints",
        keypoints,
        "--box",
        "56,20,86,112",
        "--samples",
        2,
        "--policy",
        policy,
    )
    code, out, err = call(monkeypatch, capsys, *words, "--out", tmp_path / "o", "--json")
    assert code == 0, err
    (person,) = json.loads(out)["people"]
    assert all(0 <= score <= 100 for score in person["scores"])


def test_predict_reports_an_unreadable_file_and_continues(photo, policy, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.jpg").write_text("hello")
    out_folder = tmp_path / "o"
    words = (
        "predict",
        tmp_path / "bad.jpg",
        photo,
        "--box",
        "10,10,80,110",
        "--accept-any-box",
        "--samples",
        2,
    )
    words = (*words, "--policy", policy, "--out", out_folder, "--save", "obj,bvh", "--json")
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0
    answer = json.loads(out)
    (person,), (failed,) = answer["people"], answer["failed"]
    assert {Path(file).suffix for file in person["files"]} == {".png", ".obj", ".bvh"}
    assert failed["photo"] == str(tmp_path / "bad.jpg")
    assert "not an image" in failed["reason"]
    assert failed["reason"] in err
    assert "1 people in 2 pictures; 1 failed, as reported above" in err
    code, again, err = call(monkeypatch, capsys, *words)
    assert (code, json.loads(again)) == (0, answer)
    assert "finished by an earlier run" in err


def test_predict_reports_a_video(policy, tmp_path, monkeypatch, capsys):
    frames = [Image.new("RGB", (90, 120), (grey, grey, grey)) for grey in (30, 90, 150)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    words = ("predict", tmp_path / "clip.gif", "--box", "10,10,80,110", "--accept-any-box", "--samples", 2)
    words = (*words, "--policy", policy, "--out", tmp_path / "o", "--save", "bvh", "--every", 2, "--json")
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert [(person["frame"], person["time_s"]) for person in json.loads(out)["people"]] == [(0, 0), (2, 0.2)]
    (motion,) = json.loads(out)["motions"]
    assert motion == {
        "photo": str(tmp_path / "clip.gif"),
        "files": [str(tmp_path / "o/clip-0.bvh")],
        "first_frame": 0,
        "time_s": 0,
        "duration_s": 0.3,
    }
    assert "2 frames processed (0 by an earlier run), people in 2" in err
    assert err.count("focal length 150 px (estimated") == 1


def test_critique_scores_every_hypothesis_of_a_file(photo, policy, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "h.npz", **group(3))
    words = (
        "critique",
        photo,
        "--hypotheses",
        tmp_path / "h.npz",
        "--policy",
        policy,
        "--out",
        tmp_path / "o",
        "--json",
    )
    code, out, _ = call(monkeypatch, capsys, *words)
    assert code == 0
    (person,) = json.loads(out)["people"]
    assert len(person["scores"]) == len(person["comments"]) == 3
    assert person["camera"]["focal_is_estimated"] is False
    assert all(0 <= score <= 100 for score in person["scores"])
    assert (tmp_path / "o" / "trace.jsonl").stat().st_size > 0


def commands(group: TyperGroup, *path: str) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *path, name)
        elif isinstance(command, TyperCommand):
            yield (*path, name), command


ROOT_COMMAND = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT_COMMAND)) if isinstance(ROOT_COMMAND, TyperGroup) else {}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_every_help_page_is_valid(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(monkeypatch, capsys, *path, "--help")
    assert code == 0
    (example,) = [line for line in str(COMMANDS[path].help).splitlines() if line.startswith("Example: ")]
    assert example.replace("`", "") in " ".join(out.split())
    _, *words = shlex.split(example.removeprefix("Example: `").removesuffix("`"))
    assert words[: len(path)] == list(path)
    with COMMANDS[path].make_context(path[-1], words[len(path) :]) as context:
        assert context.params


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text_that_ends_with_a_full_stop(path):
    for parameter in COMMANDS[path].params:
        text = getattr(parameter, "help", None)
        assert text, parameter.name
        assert text.endswith("."), text

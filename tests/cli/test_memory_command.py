"""`meshcritic memory`: output for people and scripts; invalid arguments change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.seed_rules import load_seed_rules, load_seed_weights
from cli.commands.memory import memory
from memory.ledger import RuleLedger
from memory.prototype_memory import Prototype, PrototypeMemory
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.memory.conftest import WordCounts

SEED = Rule.create(
    "Mind the knee.", ["leg"], Provenance("seed", "person", None), Predicate("m", ">", 0.0, 2.0)
)
GOOD = Rule.create(
    "Mind the [hand].", [], Provenance("mined", "vlm", "case-1"), Predicate("n", ">", 0.0, 1.0)
)
BAD = Rule.create("Mind the hat.", [], Provenance("mined", "vlm", "case-2"), Predicate("o", ">", 0.0, 1.0))


@pytest.fixture(autouse=True)
def hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.vectors.embed.load_text_embedder", lambda name=None: WordCounts())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A seed rule with two cases, and two mined rules, one with a gain in its trial and one with a loss."""
    with MemoryStore(tmp_path / "mine" / "memory.sqlite") as store:
        rules = RuleMemory(store, WordCounts())
        rules.add([SEED, GOOD, BAD])
        rules.record_case("case-1", [SEED.rule_id], True)
        rules.record_case("case-2", [SEED.rule_id], False)
        rules.set_state(GOOD.rule_id, "quarantined", "rho .40 to .41", 0.01, "trial")
        rules.set_state(BAD.rule_id, "quarantined", "rho .40 to .39", -0.01, "trial")
        prototype = Prototype.create("case-1", "seen", 50.0, [], {}, {})
        PrototypeMemory(store, 3, "encoder").add([(prototype, np.array([1.0, 1.0, 1.0]))])
    return tmp_path / "mine"


def call(*words: object, typed: str | None = None) -> str:
    result = CliRunner().invoke(memory, list(map(str, words)), input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def states(folder: Path) -> dict[str, str]:
    with MemoryStore(folder / "memory.sqlite") as store:
        return {rule.text: rule.state for rule in RuleLedger(store).all()}


def test_list_shows_state_record_weight_and_reason(folder):
    shown = call("list", folder)
    (line,) = [line for line in shown.splitlines() if SEED.rule_id[:8] in line]
    for cell in ("admitted", "1/2", "2.00", "Mind the knee."):
        assert cell in line
    assert "Mind the [hand]." in shown  # brackets are not markup
    assert "+0.0100" in shown


def test_list_prints_json(folder):
    answer = json.loads(call("list", folder, "--state", "quarantined", "--json"))
    assert [rule["text"] for rule in answer["rules"]] == [GOOD.text, BAD.text]
    assert (answer["cases"], answer["prototypes"]) == (2, 1)
    assert answer["rules"][0]["gain"] == 0.01
    assert answer["rules"][0]["provenance"] == {"kind": "mined", "backend": "vlm", "case_id": "case-1"}
    assert [change["reason"] for change in answer["rules"][0]["history"]] == ["added", "rho .40 to .41"]


def test_control_codes_and_markup_in_a_memory_are_shown_escaped(folder):
    """Texts of a database that this program did not write."""
    with MemoryStore(folder / "memory.sqlite") as store, store.transaction() as connection:
        connection.execute("UPDATE rule_history SET reason = '[/x]' || char(27) || '[2J'")
        connection.execute("UPDATE rules SET provenance = replace(provenance, 'vlm', '[/x]\\u001b[2J')")
    for words in (("list", folder), ("review", folder)):
        output = call(*words)
        assert "\x1b" not in output
        assert r"[/x]\x1b[2J" in output


def test_review_by_gain_does_not_ask(folder):
    answer = json.loads(call("review", folder, "--admit-above", 0.002, "--retire-below", 0, "--json"))
    assert {rule["text"]: rule["state"] for rule in answer["rules"]} == {
        GOOD.text: "admitted",
        BAD.text: "retired",
    }
    assert states(folder) == {SEED.text: "admitted", GOOD.text: "admitted", BAD.text: "retired"}
    with MemoryStore(folder / "memory.sqlite") as store:
        assert RuleLedger(store).history(BAD.rule_id)[-1].reason == "gain -0.0100 at its last trial"


def test_review_without_a_terminal_only_shows_rules(folder):
    shown = call("review", folder)
    for text in (GOOD.rule_id, "mined by vlm, from case case-1", "n > 0, weight 1", "rho .40 to .41"):
        assert text in shown
    assert states(folder)[GOOD.text] == "quarantined"


def test_review_asks_about_each_rule(folder, monkeypatch):
    monkeypatch.setattr("cli.commands.memory._is_interactive", lambda: True)
    call("review", folder, typed="a\nq\n")
    assert states(folder) == {SEED.text: "admitted", GOOD.text: "admitted", BAD.text: "quarantined"}
    call("review", folder, typed="r\n")
    assert states(folder)[BAD.text] == "retired"


def test_admit_and_retire_by_the_prefix_of_an_id(folder):
    call("admit", folder, GOOD.rule_id[:6], BAD.rule_id, "--reason", "read them")
    call("retire", folder, SEED.rule_id[:10])
    assert states(folder) == {SEED.text: "retired", GOOD.text: "admitted", BAD.text: "admitted"}
    with MemoryStore(folder / "memory.sqlite") as store:
        assert RuleLedger(store).history(GOOD.rule_id)[-1].reason == "read them"


def test_changed_rules_are_printed_as_json(folder):
    answer = json.loads(call("admit", folder, GOOD.rule_id[:6], BAD.rule_id, "--json"))
    assert answer["rules"] == [
        {"id": rule.rule_id, "state": "admitted", "text": rule.text} for rule in (GOOD, BAD)
    ]
    (retired,) = json.loads(call("retire", folder, SEED.rule_id, "--json"))["rules"]
    assert (retired["id"], retired["state"]) == (SEED.rule_id, "retired")


def test_an_exported_memory_can_be_imported(folder, tmp_path):
    file, new = tmp_path / "memory.json", tmp_path / "new"
    assert json.loads(call("export", folder, file, "--json")) == {
        "file": str(file),
        "rules": 3,
        "cases": 2,
        "prototypes": 1,
    }
    report = json.loads(call("import", new, file, "--keep-states", "--json"))
    assert report == {
        "rules_added": 3,
        "rules_joined": 0,
        "cases_added": 2,
        "cases_known": 0,
        "prototypes_kept": 1,
    }
    assert states(new) == states(folder)
    again = json.loads(call("import", new, file, "--json"))
    assert (again["rules_added"], again["cases_added"], again["cases_known"]) == (0, 0, 2)


def test_imported_rules_start_in_quarantine(folder, tmp_path):
    call("export", folder, tmp_path / "memory.json")
    call("import", tmp_path / "new", tmp_path / "memory.json")
    assert set(states(tmp_path / "new").values()) == {"quarantined"}


def test_merge_does_not_change_the_other_memory(folder, tmp_path):
    call("export", folder, tmp_path / "memory.json")
    call("import", tmp_path / "other", tmp_path / "memory.json", "--keep-states")
    call("retire", folder, SEED.rule_id)
    before = (folder / "memory.sqlite").read_bytes()
    report = json.loads(call("merge", tmp_path / "other", folder, "--json"))
    assert report["cases_known"] == 2
    assert (folder / "memory.sqlite").read_bytes() == before


def clip_memory(folder: Path) -> Path:
    with MemoryStore(folder / "memory.sqlite") as store:
        prototype = Prototype.create("case-9", "seen", 50.0, [], {}, {})
        PrototypeMemory(store, 3, "clip:x@1").add([(prototype, np.array([2.0, 1.0, 1.0]))])
    return folder


def test_a_failed_import_leaves_no_empty_memory(folder, tmp_path, monkeypatch):
    call("export", folder, tmp_path / "memory.json")

    def fail(*_):
        raise ValueError("no such model")

    monkeypatch.setattr("memory.transfer.merge.merge_document", fail)
    for target in (tmp_path / "new", tmp_path / "used", folder):
        if target.name == "used":
            target.mkdir()
            (target / "notes.txt").touch()
        before = target.exists() and {path.name: path.read_bytes() for path in target.iterdir()}
        with pytest.raises(ValueError, match="no such model"):
            call("import", target, tmp_path / "memory.json")
        assert (target.exists() and {path.name: path.read_bytes() for path in target.iterdir()}) == before


def test_prototypes_of_another_embedder_are_rejected_or_left_out(folder, tmp_path):
    other = clip_memory(tmp_path / "clip")
    with pytest.raises(
        ValueError, match=r"'clip:x@1', those of the other one of 'encoder'.*--without-prototypes"
    ):
        call("merge", other, folder)
    report = json.loads(call("merge", other, folder, "--without-prototypes", "--json"))
    assert (report["rules_added"], report["prototypes_kept"]) == (3, 0)


INVALID = {
    "a missing memory": (["list", "nowhere"], FileNotFoundError, "no memory here"),
    "a missing memory to merge": (["merge", "mine", "nowhere"], FileNotFoundError, "no memory here"),
    "a missing memory to merge into": (["merge", "nowhere", "mine"], FileNotFoundError, "no memory here"),
    "an unknown state": (["list", "mine", "--state", "asleep"], ValueError, "quarantined, admitted, retired"),
    "an unknown rule": (["admit", "mine", "zzz"], ValueError, "no rule id starts with 'zzz'"),
    "a prefix of several rules": (["retire", "mine", ""], ValueError, "3 rule ids start"),
    "a missing file": (["import", "new", "memory.json"], FileNotFoundError, "there is no such file"),
    "a file that is not a memory": (["import", "new", "other.json"], ValueError, "not an exported memory"),
}


@pytest.mark.parametrize("fault", sorted(INVALID))
def test_invalid_arguments_change_nothing(fault, folder, tmp_path, monkeypatch):
    words, kind, names = INVALID[fault]
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("[]")
    before = states(folder)
    with pytest.raises(kind, match=names):
        call(*words)
    assert states(folder) == before
    assert not Path("nowhere").exists()
    assert not Path("new").exists()


def test_a_rule_of_ones_own_is_admitted(folder):
    words = ("People have a height.", "--when", " height_mm >30 ", "--weight", 2, "--tag", "facing:side")
    call("add", folder, *words)
    assert states(folder)["People have a height."] == "admitted"
    with MemoryStore(folder / "memory.sqlite") as store:
        (rule,) = [rule for rule in RuleLedger(store).all() if "height" in rule.text]
    assert rule.predicate == Predicate("height_mm", ">", 30.0, 2.0)
    assert (rule.tags, rule.provenance.kind) == (("facing:side",), "person")
    call("retire", folder, rule.rule_id)
    assert json.loads(call("add", folder, *words, "--json")) == {"id": rule.rule_id, "added": False}
    assert states(folder)["People have a height."] == "admitted"  # again
    (folder.parent / "file").touch()
    result = CliRunner().invoke(memory, ["add", str(folder.parent / "file"), "A rule."])
    assert "is a file; a memory is a folder" in str(result.exception)


def test_a_rule_on_a_metric_that_nothing_measures_is_reported(folder):
    for metric, reported in (("self_penetration_mm", False), ("served_depth_mm", False), ("hieght_mm", True)):
        words = ["add", str(folder), f"A rule on {metric}.", "--when", f"{metric} > 30"]
        result = CliRunner().invoke(memory, words, catch_exceptions=False)
        assert (f"no installed tool measures {metric}" in result.stderr) == reported


def test_a_new_memory_has_the_seed_rules_too(tmp_path):
    call("add", tmp_path / "new", "No predicate.")
    assert set(states(tmp_path / "new").values()) == {"admitted"}
    assert len(states(tmp_path / "new")) == len(load_seed_rules()) + 1


@pytest.mark.parametrize(
    ("words", "weights"), [((), load_seed_weights("blazepose")), (("--detector", "embedded"), None)]
)
def test_seed_rules_are_weighed_for_the_detector(tmp_path, words, weights):
    call("add", tmp_path / "new", "No predicate.", *words)
    with MemoryStore(tmp_path / "new" / "memory.sqlite") as store:
        known = {rule.rule_id for rule in RuleLedger(store).all()}
    assert known > {rule.rule_id for rule in load_seed_rules(weights)}


@pytest.mark.parametrize(
    "when", ["height", "height_mm = 3", "height_mm > tall", "height_mm > 1e400", "> 3", "a-b > 1"]
)
def test_a_rule_that_cannot_be_tested_leaves_no_memory(tmp_path, when):
    result = CliRunner().invoke(memory, ["add", str(tmp_path / "new"), "A rule.", "--when", when])
    assert isinstance(result.exception, ValueError)
    assert "such as 'reach_mm > 30'" in str(result.exception)
    assert not (tmp_path / "new").exists()

"""A model's weights that cannot be had: one sentence, even where the hub or peft gives no reason."""

import pytest

from agent.vlm.local import model_loading as weights


def silent(*_: object, **__: object) -> None:
    raise ValueError


def test_a_hub_that_gives_no_reason_is_one_sentence(monkeypatch):
    monkeypatch.setattr(weights, "snapshot_download", silent)
    with pytest.raises(FileNotFoundError, match=r"the hub did not give it \(ValueError\)$"):
        weights.find_model("nobody/nothing")


def test_an_adapter_that_does_not_fit_for_no_reason_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("peft.PeftModel.from_pretrained", silent)
    with pytest.raises(ValueError, match=r"does not fit the model: ValueError$"):
        weights._adapted(object(), tmp_path, trainable=False)

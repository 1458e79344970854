"""Weights that cannot be loaded are reported in one sentence, even if the hub or peft gives no reason."""

import pytest

from agent.vlm.local import model_loading


def fail_without_reason(*_: object, **__: object) -> None:
    raise ValueError


def test_a_failed_download_without_a_reason(monkeypatch):
    monkeypatch.setattr(model_loading, "snapshot_download", fail_without_reason)
    with pytest.raises(FileNotFoundError, match=r"the hub download failed \(ValueError\)$"):
        model_loading.find_model("nobody/nothing")


def test_an_adapter_of_another_model_without_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr("peft.PeftModel.from_pretrained", fail_without_reason)
    with pytest.raises(ValueError, match=r"does not fit the model: ValueError$"):
        model_loading._adapted(object(), tmp_path, trainable=False)

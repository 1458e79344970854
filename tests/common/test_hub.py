"""Models of the hub without a connection: one sentence, at once, and nothing from the libraries."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants, snapshot_download

from common import hub
from common.hub import hub_access


@pytest.fixture
def cold_cache(monkeypatch, tmp_path):
    """No model, no setting, and no answer remembered."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget = hub._is_reachable.cache_clear
    forget()
    yield tmp_path
    forget()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def download(cache) -> None:
    with hub_access("nobody/model"):
        snapshot_download("nobody/model", cache_dir=str(cache))


def test_a_hub_that_cannot_be_reached_is_a_sentence(cold_cache, monkeypatch, capfd):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(
        FileNotFoundError, match=r"^the model nobody/model is neither a folder .* cannot be reached; d"
    ):
        download(cold_cache)
    assert capfd.readouterr() == ("", "")
    assert constants.HF_HUB_OFFLINE is False


def test_offline_mode_is_named_and_nobody_is_asked(cold_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_is_reachable", lambda endpoint: pytest.fail("a connection was made"))
    with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE is set; download it first"):
        download(cold_cache)


def test_a_folder_needs_no_hub(cold_cache, monkeypatch):
    monkeypatch.setattr(hub, "_is_reachable", lambda endpoint: pytest.fail("a connection was made"))
    with hub_access(str(cold_cache)):
        pass


def test_an_error_of_a_loaded_model_is_not_one_of_the_hub(cold_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="a fault of the model"), hub_access("nobody/model"):
        raise ValueError("a fault of the model")

"""The feature cache: lookup, size limit, sharing, and no exception for any fault of the disk."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from hmr.detection.feature_cache import ENVIRONMENT_VARIABLE, FeatureCache, default_cache

FEATURES = torch.arange(32, dtype=torch.float16).reshape(2, 4, 4)
FILE = 128 + 2 * 32  # bytes: NumPy's header, and 32 numbers of two


def filled(folder: Path, count: int, max_bytes: int) -> FeatureCache:
    """Keys of two digits in separate folders, each file one second newer than the one before."""
    cache = FeatureCache(folder, max_bytes)
    for number in range(count):
        cache.put(f"{number:02}", FEATURES)
        os.utime(path_of(folder, number), (number, number))
    return cache


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:02}" / f"{number:02}.npy"


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.rglob("*.npy"))


def test_stored_features_are_found(tmp_path: Path):
    FeatureCache(tmp_path).put("ab", FEATURES)
    found = FeatureCache(tmp_path).get("ab")
    assert found is not None
    assert torch.equal(found, FEATURES)
    assert FeatureCache(tmp_path).get("ac") is None


def test_the_least_recently_read_file_is_deleted_first(tmp_path: Path):
    """A limit of ten files: the eleventh leaves nine tenths, with itself and the file that was read."""
    filled(tmp_path, 10, 10 * FILE)
    assert kept(tmp_path) == [*range(10)]
    cache = FeatureCache(tmp_path, 10 * FILE)
    assert cache.get("00") is not None
    cache.put("10", FEATURES)
    assert kept(tmp_path) == [0, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_partial_file_counts_and_is_deleted(tmp_path: Path):
    filled(tmp_path, 4, 10 * FILE)
    left = tmp_path / "00" / ".00.npy.1.2"
    left.write_bytes(b"x" * 9 * FILE)
    os.utime(left, (0, 0))
    FeatureCache(tmp_path, 10 * FILE).put("04", FEATURES)
    assert not left.exists()
    assert len(kept(tmp_path)) >= 4


def test_several_writers_can_share_a_folder(tmp_path: Path):
    """As several processes would: all write, read and delete the same few files."""

    def work(seed: int) -> None:
        cache = FeatureCache(tmp_path, 6 * FILE)
        for number in range(60):
            cache.put(f"{(seed + number) % 12:02}", FEATURES)
            found = cache.get(f"{(seed * number) % 12:02}")
            assert found is None or torch.equal(found, FEATURES)
        assert not cache._closed

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert 1 <= len(kept(tmp_path)) <= 6 + 4


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_broken_file_is_a_miss_and_written_again(tmp_path: Path, content: bytes):
    cache = filled(tmp_path, 1, 10 * FILE)
    path_of(tmp_path, 0).write_bytes(content)
    assert cache.get("00") is None
    cache.put("00", FEATURES)
    assert cache.get("00") is not None


def test_an_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "features")
    for key in ("ab", "cd"):
        cache.put(key, FEATURES)
        assert cache.get(key) is None
    (record,) = caplog.records
    assert ENVIRONMENT_VARIABLE in record.getMessage()


def test_a_cache_can_be_copied(tmp_path: Path):
    """Trainers copy policies, and Ray pickles them."""
    assert copy.deepcopy(FeatureCache(tmp_path, 7)).max_bytes == 7


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def folder(**environment: str) -> Path | None:
        for name in (ENVIRONMENT_VARIABLE, "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HOME": str(tmp_path), **environment}.items():
            monkeypatch.setenv(name, value)
        cache = default_cache()
        return cache and cache.folder

    assert folder() == tmp_path / ".cache/meshcritic/features"
    assert folder(XDG_CACHE_HOME="/caches") == Path("/caches/meshcritic/features")
    assert folder(**{ENVIRONMENT_VARIABLE: "~/other", "XDG_CACHE_HOME": "/caches"}) == tmp_path / "other"
    assert folder(**{ENVIRONMENT_VARIABLE: "off"}) is None
    assert folder(**{ENVIRONMENT_VARIABLE: "OFF"}) is None

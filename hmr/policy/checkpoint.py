"""Loads policies: the shipped checkpoints, or a folder that pretraining or alignment has written."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from common.reading.pretrained import load_whole
from common.reading.validate import parse_json
from common.storage.files import PathLike
from hmr.detection.loading import load_detector
from hmr.policy.config import LIMITS, SamplingSettings
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detector

__all__ = ["BASES", "find_device", "load_policy", "load_reader"]

_ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED_POLICY = _ASSETS / "policy"
BASES = {"shipped": SHIPPED_POLICY, "studio": _ASSETS / "studio_policy"}
# A checkpoint is untrusted: it must not choose a plug-in, or models that are then downloaded.
_DETECTORS = ("embedded", "simulated")


def load_policy(
    folder: PathLike | None = None, device: str = "cpu", detector: str | Detector | None = None
) -> DiffusionPolicy:
    """The policy in a folder (default: the shipped one), frozen, in evaluation mode, in float32.

    detector: what the policy uses for samples without detections; an object, or a name for
        `hmr.detection.loading.load_detector`. None: the one that the policy was trained for.

    Raises FileNotFoundError or ValueError, which name the folder, if no policy can be read from it, and ValueError for
    a device that torch does not have.
    """
    folder, torch_device = Path(folder or SHIPPED_POLICY), find_device(device)
    _check_kind(folder)
    policy = load_whole(DiffusionPolicy, folder, "policy", LIMITS)
    _check_sampling(policy, folder)
    detector = _trained_for(policy, folder) if detector is None else detector
    policy.detector = load_detector(detector, device) if isinstance(detector, str) else detector
    policy.to(torch_device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides the signature)
    return policy.requires_grad_(False).eval()


@functools.lru_cache(maxsize=2)
def load_reader(device: str) -> DiffusionPolicy:
    """The shipped policy as a reader of 3D joints (`hmr.policy.joints_3d`): loaded once per process, shared, and never
    to be changed. It was trained for every detector. Raises ValueError for a device that torch does not have."""
    return load_policy(SHIPPED_POLICY, device)


def _check_kind(folder: Path) -> None:
    """Raises ValueError for a policy of images, as earlier versions wrote them."""
    config = folder / "config.json"
    found = parse_json(config, "config") if config.is_file() else None
    if isinstance(found, dict) and found.get("model_type") == "meshcritic_diffusion_policy":
        raise ValueError(
            f"the policy in {folder} was trained on images, which this version no longer reads; use the shipped "
            "policy, or train one on detections with meshcritic pretrain"
        )


def _check_sampling(policy: DiffusionPolicy, folder: Path) -> None:
    try:
        SamplingSettings.of(policy.config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def _trained_for(policy: DiffusionPolicy, folder: Path) -> str:
    if (name := policy.config.detector) not in _DETECTORS:
        raise ValueError(
            f"{folder / 'config.json'}: detector is {name!r}; allowed are {', '.join(_DETECTORS)}, and any other can "
            "be given when the policy is loaded"
        )
    return name


def find_device(name: str) -> torch.device:
    """`cpu`, or a device of the accelerator that torch finds, such as `cuda`, `cuda:1` or `mps`.

    Raises ValueError, with the available devices, for any other name.
    """
    kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    known = ["cpu", *(f"{kind.type}:{number}" for number in range(count) if kind)]
    if name not in known and f"{name}:0" not in known:
        raise ValueError(f"torch has no device {name!r} here; it has {', '.join(known)}")
    return torch.device(name)

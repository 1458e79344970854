"""Detectors by name."""

from __future__ import annotations

from common.plugins import installed_plugins, load_plugin
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import load_encoder
from hmr.detection.simulated import SimulatedDetector
from hmr.types import Detector

__all__ = ["ENTRY_POINT_GROUP", "load_detector"]

ENTRY_POINT_GROUP = "meshcritic.detectors"


def load_detector(spec: str, device: str = "cpu") -> Detector:
    """`embedded[:FOLDER]`, `blazepose[:heavy]`, `simulated`, `transformers[:FINDER[,POSE[,SEGMENTER]]]` with hub
    names or local folders, or `NAME[:ARGUMENT]` of an installed detector.

    device: of its networks; an installed detector decides on its own.

    An installed detector is an entry point of the group `meshcritic.detectors`; it is called with the argument (an
    empty string if there is none). Raises ValueError for any other name, for a model that cannot be loaded, and for a
    plug-in that cannot be loaded or makes no detector.
    """
    kind, _, argument = spec.partition(":")
    if kind == EmbeddedDetector.name:
        return EmbeddedDetector(load_encoder(argument or None, device))
    if spec == SimulatedDetector.name:
        return SimulatedDetector()
    if kind == "transformers":
        from hmr.detection.transformers_detector import load_transformers_detector

        return load_transformers_detector(argument, device)
    if kind == "blazepose":
        from hmr.detection.blazepose.detector import load_blazepose

        return load_blazepose(argument or "full", device)
    return _installed_detector(spec, kind, argument)


def _installed_detector(spec: str, name: str, argument: str) -> Detector:
    plugins = installed_plugins(ENTRY_POINT_GROUP)
    if name not in plugins:
        others = "".join(f", {other}" for other in sorted(plugins))
        raise ValueError(
            f"no detector is called {spec!r}; known are embedded, blazepose[:heavy], simulated, "
            f"transformers[:FINDER[,POSE[,SEGMENTER]]]{others}"
        )
    detector = load_plugin(plugins[name])(argument)
    if not isinstance(detector, Detector):
        raise ValueError(
            f"the plug-in {name!r} makes a {type(detector).__name__}, which is no detector: one has a name, "
            "find(image) and detect(sample)"
        )
    return detector

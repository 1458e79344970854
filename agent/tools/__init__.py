"""The tools of the critique agent: each measures one property of every hypothesis of a group.

A tool is any object with `name`, `needs` and `measure(case) -> Evidence` (`agent.types.CritiqueTool`). The
built-in ones are listed here by name; others come from entry points of the group
`meshcritic.critique_tools`, as docs/guides/add-a-tool.md shows, or are handed to the agent as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.tools.appearance import Appearance
from agent.tools.depth_order import DepthOrder
from agent.tools.ground_contact import GroundContact
from agent.tools.joint_distances import GroupConsensus, PoseReading
from agent.tools.joint_limits import JointLimits
from agent.tools.priors import PosePrior, ShapePrior
from agent.tools.reprojection import KeypointLayout, Reprojection
from agent.tools.self_contact import SelfContact
from agent.tools.silhouette import Silhouette
from agent.types import CritiqueTool
from common.plugins import installed_plugins, load_plugin

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "load_tools"]

ENTRY_POINT_GROUP = "meshcritic.critique_tools"
BUILT_IN: dict[str, Callable[[], CritiqueTool]] = {
    "reprojection": Reprojection,
    "keypoint_layout": KeypointLayout,
    "silhouette": Silhouette,
    "appearance": Appearance,
    "joint_limits": JointLimits,
    "self_contact": SelfContact,
    "ground_contact": GroundContact,
    "pose_prior": PosePrior,
    "shape_prior": ShapePrior,
    "pose_reading": PoseReading,
    "depth_order": DepthOrder,
    "group_consensus": GroupConsensus,
}


def load_tools(names: Sequence[str] | None = None) -> list[CritiqueTool]:
    """New tools by name, in the order given; without names all built-in tools, then all installed ones.

    Raises ValueError for an unknown name, and for a plug-in that has the name of a built-in tool or cannot be loaded.
    """
    plugins = installed_plugins(ENTRY_POINT_GROUP)
    if taken := sorted(plugins.keys() & BUILT_IN.keys()):
        raise ValueError(
            f"the installed tool {taken[0]!r} has the name of a built-in tool; rename its entry point"
        )
    allowed = [*BUILT_IN, *sorted(plugins)]
    chosen = allowed if names is None else list(names)
    if unknown := [name for name in chosen if name not in allowed]:
        raise ValueError(f"no tool is called {unknown[0]!r}; the tools are {', '.join(allowed)}")
    return [BUILT_IN[name]() if name in BUILT_IN else load_plugin(plugins[name])() for name in chosen]

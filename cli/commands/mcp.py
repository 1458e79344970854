"""`meshcritic mcp`: serves the critic over the Model Context Protocol."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cli.backend_flags import BackendSpec, CritiqueSet, MaxCalls, Record, ReplyCacheFile, critique_and_backend
from cli.options import BodyFile, DetectorOrExplored, Device, MemoryOrSeedRules, PolicyDir
from cli.startup import without_collection

__all__ = ["mcp"]

RootFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="Folder that the client may name files in; repeatable. Relative paths start at the first one. Default: "
        "the working directory.",
    ),
]


def mcp(
    root: RootFolders = None,
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    memory: MemoryOrSeedRules = None,
    detector: DetectorOrExplored = None,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
) -> None:
    """Serve the measurements, the memories and the critique to an MCP client over stdin and stdout.

    The tools take paths of photographs, hypotheses files (docs/reference/hypotheses-file.md) and memories. Needs the
    extra mcp (docs/guides/mcp.md).

    Example: `meshcritic mcp --root photos --root runs --memory runs/demo/memory`
    """
    if find_spec("mcp") is None:
        raise ValueError("meshcritic mcp needs the MCP SDK: pip install 'meshcritic[mcp]'")
    logging.getLogger("faiss").setLevel(
        logging.WARNING
    )  # its import reports the instruction set, in six lines
    with without_collection():
        from agent.context import CritiqueSettings
        from agent.vlm.options import open_backend
        from cli.mcp_server.roots import Roots
        from cli.mcp_server.server import serve
        from cli.mcp_server.service import CritiqueService, Models
        from cli.mcp_server.service_calls import service_calls
        from cli.photos.detectors import choose_detector

    roots = Roots(root or [Path()])
    critique, options = critique_and_backend(backend, settings, False, max_calls, record, reply_cache)
    with open_backend(options) as opened:
        chosen = choose_detector(detector, None, [], memory)
        models = Models(opened.backend, chosen, policy, device, body, memory)
        with CritiqueService(roots, models, CritiqueSettings(**critique)) as service:
            serve(service, service_calls())

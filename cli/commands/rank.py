"""`meshcritic rank`: a page on this machine on which people rank hypotheses."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer

from cli.console import print_message
from cli.options import BodyFile, Seed, file_to_write

__all__ = ["rank"]

GROUPS_IN_MEMORY = 4  # pictures


def rank(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of NAME-0.npz files, as `meshcritic critique` or `predict` writes them."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=file_to_write("--out"),
            help="File that takes the rankings, one line per answer; an existing one is continued.",
        ),
    ] = Path("rankings.jsonl"),
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the photographs. Default: those that the hypotheses were made for.",
        ),
    ] = None,
    judge: Annotated[
        str, typer.Option(metavar="NAME", help="Who ranks: a name or number that differs between people.")
    ] = "1",
    pairs: Annotated[
        int | None,
        typer.Option(min=1, help="Ask about this many pairs per group. Default: rank whole groups."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. Default: a free one.")] = 0,
    body: BodyFile = None,
    seed: Seed = 0,
) -> None:
    """Serve a page on this machine on which a person ranks the hypotheses of photographs, without scores.

    The command ends with the last answer. Stop it at any time; the same command continues.

    Example: `meshcritic rank runs/critique --photos photos --out rankings.jsonl --judge 1`
    """
    from cli.ranking.groups import draw_group, find_groups, read_group
    from cli.ranking.server import RankingServer
    from cli.ranking.session import Session
    from eval.rankings.file import RankingsFile
    from hmr.body.model import load_body
    from hmr.render import load_renderer

    groups = find_groups(folder, photos)
    by_name = {group.name: group for group in groups}
    model, renderer = load_body(body), load_renderer()
    draw = lru_cache(GROUPS_IN_MEMORY)(
        lambda name: draw_group(read_group(by_name[name], model), model, renderer)
    )
    with RankingsFile(out) as file:
        session = Session(file, groups, judge, pairs, seed)
        if not session.finished:
            with RankingServer(session, draw, port) as server:
                print_message(f"open {server.access.url} in a browser on this machine")
                server.serve_until_finished()
        print_message(f"judge {judge} has answered all {len(session.questions)} questions; {out}")

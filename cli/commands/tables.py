"""`meshcritic tables`: the paper's tables on the open benchmark, or on real data sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import print_json, print_message, stages
from cli.evaluation_bodies import GenderedBodies, Regressor, load_evaluation_bodies
from cli.options import WORKERS, BodyFile, DetectorSpec, Device, Json, Out, PolicyDir
from common.storage.locks import single_run

if TYPE_CHECKING:
    from eval.tables.sizes import TableSizes

__all__ = ["tables"]

SETS = "Real data sets"  # a group of options on the help page
PREPARED = Path("data/prepared")


def tables(
    table: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="Number of a table, 1 to 5; repeatable. Default: 1 to 4, and with --full all."
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="Full sizes with five seeds, or small ones with one seed."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 0. Default: 1 or 5.")
    ] = None,
    sets: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=SETS,
            help="Prepared data sets instead of the open benchmark: adhmr or hmr2, or a YAML file that names the sets "
            "to align on, calibrate on, test on and compare critics on (docs/guides/tables.md).",
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", rich_help_panel=SETS, help="Folder of the sets, from meshcritic data prepare."
        ),
    ] = PREPARED,
    policy: PolicyDir = None,
    detector: DetectorSpec = "blazepose",
    body: BodyFile = None,
    bodies: GenderedBodies = None,
    regressor: Regressor = None,
    device: Device = "cpu",
    out: Out = Path("runs/tables"),
    as_json: Json = False,
) -> None:
    """Run and print the paper's tables on the open benchmark or on real data sets, with the paper's own numbers beside
    them.

    Table 1: alignment methods between the base and its ceiling. Table 2: critic and loss. Tables 3 and 4: critics, and
    the agent without its parts. Table 5: our losses, rounds, group sizes and critics. The first four state which of the
    paper's orderings hold. The same command continues a killed run; Markdown, LaTeX and Parquet are written to OUT,
    with --sets to a folder of that name in it. --policy, --detector, --body, --bodies and --regressor need --sets.

    Example: `meshcritic tables --quick --table 3 --table 4`
    """
    from common.storage.versions import write_run
    from eval.study.arms import BASE
    from eval.tables.run import OURS, TABLES, run_prepared_tables, run_tables
    from eval.tables.writing import markdown, write_tables
    from hmr.policy.checkpoint import BASES, load_policy

    numbers = table or [number for number in TABLES if full or number != OURS]
    sizes = _sizes(full, seeds)
    settings = {"tables": list(numbers), "sizes": dataclasses.asdict(sizes)}
    if sets is None:
        _refuse_models(policy, detector, body, bodies, regressor)
        with single_run(out), stages() as stage:
            model = load_policy(BASES[BASE], device)
            found = run_tables(model, numbers, sizes, out, stage, WORKERS)
            paths = write_tables(found, out)
            write_run(out, {**settings, "policy": model.digest()})
    else:
        from eval.study.prepared import read_sets

        named, evaluated = read_sets(sets, data), load_evaluation_bodies(body, bodies, regressor)
        with single_run(out), stages() as stage:
            model = load_policy(policy, device, detector)
            found = run_prepared_tables(model, named, evaluated, numbers, sizes, out, stage, print_message)
            if not found:
                raise ValueError(f"{sets} names no set for the tables that were asked for")
            paths = write_tables(found, folder := out / Path(sets).stem)
            used = {"sets": Path(sets).name, "policy": model.digest(), "detector": model.detector.name}
            write_run(folder, {**settings, **used, "body": evaluated.body.name})
    if as_json:
        print_json({"tables": [record for item in found for record in item.records()]})
    else:
        print("\n".join(map(markdown, found)))
    print_message(f"written: {', '.join(map(str, paths))}")


def _sizes(full: bool, seeds: int | None) -> TableSizes:
    from eval.tables.sizes import FULL, QUICK

    sizes = FULL if full else QUICK
    return sizes if seeds is None else dataclasses.replace(sizes, seeds=tuple(range(seeds)))


def _refuse_models(
    policy: Path | None, detector: str, body: Path | None, bodies: list[str] | None, regressor: Path | None
) -> None:
    """The open benchmark fixes its models. Raises ValueError for other ones."""
    given = {"--policy": policy, "--body": body, "--bodies": bodies, "--regressor": regressor}
    named = [name for name, value in given.items() if value]
    if detector != "blazepose":
        named.append("--detector")
    if named:
        raise ValueError(f"{', '.join(named)}: only with --sets; the open benchmark fixes its models")

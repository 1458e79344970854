"""Lists the licence of every package that meshcritic installs, those of its dependencies' dependencies included.

    python -m benchmarks.licences                 # as a table; of the package alone
    python -m benchmarks.licences --extra local   # and of an extra, repeatable

The licences are what the installed packages say of themselves. Exits with 1 if one says nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "meshcritic"
UNKNOWN = ("", "UNKNOWN")
# stated in a file of the package, not in its metadata
IN_A_FILE = {"pyglet": "BSD-3-Clause", "smplx": "non-commercial scientific research (Max Planck Society)"}
MAX_CHARS = 60


def licence_of(package: Distribution) -> str:
    """The SPDX expression of a package, or else its classifiers, or the first line of its licence; empty if it says
    nothing."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [
        text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License")
    ]
    if named := [text for text in classifiers if text != "OSI Approved"]:
        return ", ".join(named)
    first = (about.get("License") or "").strip().partition("\n")[0][:MAX_CHARS]
    return "" if first in UNKNOWN else first


def installed(package: str, extras: Collection[str] = ()) -> dict[str, Distribution]:
    """A package and everything installed that it requires here, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(package, tuple(extras))]
    asked: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in asked:
            continue
        asked.add((name, wanted))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform, or an extra that is not installed
        for text in found[name].requires or ():
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                waiting.append((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extra", action="append", default=[], help="an extra of the package, repeatable")
    packages = installed(PACKAGE, parser.parse_args().extra)
    licences = {
        name: licence_of(package) or IN_A_FILE.get(name, "") for name, package in sorted(packages.items())
    }
    print("| package | version | licence |\n|---|---|---|")
    for name, licence in licences.items():
        print(f"| {name} | {packages[name].version} | {licence or '**not stated**'} |")
    if silent := [name for name, licence in licences.items() if not licence]:
        print(f"no licence is stated by {', '.join(silent)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

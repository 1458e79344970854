"""Opens pages in the system's Chromium, for the tests and for the time in which a report opens.

    python -m benchmarks.chromium FILE [--runs 5]

prints the time from the start of the navigation until the first case of a report is shown with its pictures decoded,
the time until the whole file is read, and the CPU time of the page's process by then: the least and the median, each
run in a new browser. The file is in the cache of the operating system.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TIMEOUT_MS = 120_000
DECODED = "Promise.all([...document.images].map((image) => image.decode()))"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    measure_opening(options.file, options.runs)


def measure_opening(path: Path, runs: int) -> None:
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} does not exist: the time of opening is not measured")
        return
    opened = [open_once(path) for _ in range(runs)]
    names = ("first case shown", "whole file read", "CPU time of the page's process")
    for name, seconds in zip(names, zip(*opened, strict=True), strict=True):
        print(f"{name}: {min(seconds):.2f} s (least), {median(seconds):.2f} s (median of {runs})")


def open_once(path: Path) -> tuple[float, float, float]:
    """Seconds until the first case is shown, until all are read, and of CPU time of the page's process by then."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        start = time.perf_counter()
        page.goto(path.resolve().as_uri(), wait_until="commit", timeout=TIMEOUT_MS)
        page.locator("html[data-ready=yes]").wait_for(state="attached", timeout=TIMEOUT_MS)
        page.evaluate(DECODED)
        shown_s = time.perf_counter() - start
        page.wait_for_load_state("load", timeout=TIMEOUT_MS)
        read_s = time.perf_counter() - start
        metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
        return shown_s, read_s, metrics["ProcessTime"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser, which requests nothing on its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=TIMEOUT_MS)
        yield browser
        browser.close()


if __name__ == "__main__":
    main()

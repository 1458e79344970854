"""CPU time of BlazePose's networks per image, in torch and, where it is installed, in ai-edge-litert.

    python -m benchmarks.policy.blazepose_networks [--repeats 6] [--archive FILE.whl]

torch runs one image and batches of 8; ai-edge-litert, which needs the wheel of mediapipe for its files (`--archive`),
one image, as the files are written. One thread each, in turn, and the minimum of the repeats, because other processes
only add time. The input is noise: the time does not depend on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hmr.assets.extract_blazepose import BLAZEPOSE_FOLDER, SOURCES, read_member
from hmr.detection.blazepose.network import load_network

BATCH = 8


def torch_pass(asset: str, batch: int) -> Callable[[], object]:
    network = load_network(BLAZEPOSE_FOLDER / f"{asset}.safetensors")
    images = torch.rand(batch, 3, network.size, network.size)
    return lambda: network(images)


def litert_pass(model: bytes) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    noise = np.random.default_rng(0).random(image["shape"], np.float32)

    def run() -> None:
        interpreter.set_tensor(image["index"], noise)
        interpreter.invoke()

    return run


def milliseconds(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU time of each pass: the minimum of the repeats, which are taken in turn after a warm-up."""
    least = dict.fromkeys(passes, float("inf"))
    for repeat in range(repeats + 1):
        for name, run in passes.items():
            start = time.process_time()
            run()
            if repeat:
                least[name] = min(least[name], 1e3 * (time.process_time() - start))
    return least


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--archive", type=Path, default=None, help="wheel of mediapipe, for ai-edge-litert")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "torch, one image", f"torch, batch of {BATCH}", "ai-edge-litert, one image")
    for source in SOURCES["full"]:
        passes = {"one": torch_pass(source.asset, 1), "batch": torch_pass(source.asset, BATCH)}
        if options.archive is not None:
            passes["litert"] = litert_pass(read_member(options.archive, source))
        found = milliseconds(passes, options.repeats)
        litert = f"{found['litert']:.0f}" if "litert" in found else "-"
        table.add_row(source.asset, f"{found['one']:.0f}", f"{found['batch'] / BATCH:.0f}", litert)
    Console().print(table)


if __name__ == "__main__":
    main()

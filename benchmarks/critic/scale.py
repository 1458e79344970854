"""Estimates the cost of scoring the groups of many images with a large VLM on a server, for docs/results/scale.md.

    python -m benchmarks.critic.scale [--images 1000000] [--samples 20] [--input-tps 5000] [--output-tps 3700]

The critique graph runs on wild scenes with a backend that returns dummy answers (`agent.vlm.wrappers.dry_run`), once
for each way of asking, and requests, pictures and texts are counted. Tokens are those of Qwen3-VL: pictures as its
image processor cuts them, text in the pieces that its tokenizer never joins, each of which is at least one token. GPU
time follows from published rates of a server, which the page cites. Storage is that of a real shard. No VLM is called.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex
from PIL import Image
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from agent.context import CritiqueSettings
from agent.default import default_agent, open_default_memory
from agent.vlm import Part, Reply, load_backend
from agent.vlm.protocol import DataPart, ImagePart
from agent.vlm.servers.chat_request import data_url
from agent.vlm.wrappers.dry_run import DryRun
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Sample
from rl.preferences.build import build_preferences
from rl.scorers.rewards import RewardMix

SPEC = "openai:Qwen/Qwen3-VL-32B-Instruct@http://127.0.0.1:8000/v1"
# Qwen3-VL's preprocessor_config.json: patches of 16 pixels, merged 2 x 2; smaller pictures are enlarged to LEAST_PX
TOKEN_SIDE_PX, LEAST_PX = 32, 65536
SENT_SIDE_PX = 1024  # the backend's default
PIECES = regex.compile(PRETOKENIZE_REGEX)
HOUR_S = 3600


@dataclass(frozen=True)
class AskingMode:
    """One way of asking about a group."""

    name: str
    settings: CritiqueSettings
    max_images: int | None = None
    uncertain: bool = False


MODES = (
    AskingMode("default, every group uncertain", CritiqueSettings(), uncertain=True),
    AskingMode("default, no group uncertain", CritiqueSettings()),
    AskingMode("one label order", CritiqueSettings(permutations=1)),
    AskingMode("one label order, sheets of six", CritiqueSettings(permutations=1, pictures="montage")),
    AskingMode("default in chunks, 9 pictures at most", CritiqueSettings(), max_images=9),
)


class CountingBackend(DryRun):
    """Counts the tokens that a server would read and write; either all groups are uncertain or none."""

    def __init__(self, mode: AskingMode) -> None:
        limit = {} if mode.max_images is None else {"max_images": str(mode.max_images)}
        super().__init__(load_backend(SPEC, **limit))
        self.uncertain = mode.uncertain
        self.read, self.written = Counter[str](), 0  # tokens, by type of part
        self.sent_bytes = 0

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        text = super().generate(parts, schema, seed).text
        if not self.uncertain:
            text = text.replace('"uncertain": true', '"uncertain": false')
        with self._lock:  # label orders are sent in threads
            self.written += text_tokens(text)
            self.read["instructions"] += text_tokens(str(dict(schema)))
            for part in parts:
                self._count(part)
        return Reply(text)

    def _count(self, part: Part) -> None:
        if isinstance(part, ImagePart):
            self.read["pictures"] += picture_tokens(part)
            self.read["instructions"] += text_tokens(part.caption)
            self.sent_bytes += len(data_url(part, SENT_SIDE_PX))
        else:
            self.read[part.name if isinstance(part, DataPart) else "instructions"] += text_tokens(part.text)
            self.sent_bytes += len(part.text)


@dataclass(frozen=True)
class Cost:
    """The cost of one group, mean over the scenes."""

    calls: float
    pictures: float
    picture_tokens: float
    text_tokens: float
    answer_tokens: float
    sent_mb: float
    own_s: float  # CPU time of this process: posing, measuring, drawing

    def gpu_s(self, input_tps: float, output_tps: float) -> float:
        return (self.picture_tokens + self.text_tokens) / input_tps + self.answer_tokens / output_tps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--input-tps", type=float, default=5000.0, help="prompt tokens per second and GPU")
    parser.add_argument("--output-tps", type=float, default=3700.0, help="answer tokens per second and GPU")
    parser.add_argument("--scenes", type=int, default=4, help="number of scenes for the means")
    options = parser.parse_args()
    policy = load_policy()
    samples = [
        scene.labelled.sample for scene in SceneMaker(load_body(), WILD, seed=0).chunk(0, options.scenes)
    ]
    cost_of(MODES[0], policy, samples[:1], options.samples)  # numba compiles at first use
    print(
        "| way of asking | calls | pictures | picture tokens | text tokens | answer tokens | MB sent |",
        end="",
    )
    print(" GPU hours | core hours |\n|---|---|---|---|---|---|---|---|---|")
    for mode in MODES:
        cost, read = cost_of(mode, policy, samples, options.samples)
        gpu_s = cost.gpu_s(options.input_tps, options.output_tps)
        hours = [seconds * options.images / HOUR_S for seconds in (gpu_s, cost.own_s)]
        numbers = [f"{n:,.0f}" for n in dataclasses.astuple(cost)[:5]] + [f"{cost.sent_mb:.1f}"]
        print(f"| {mode.name} | {' | '.join([*numbers, *(f'{h:,.0f}' for h in hours)])} |", flush=True)
        shares = [f"{name} {count / read.total():.0%}" for name, count in read.most_common()]
        print(f"<!-- read: {', '.join(shares)} -->", flush=True)
    row_kb = bytes_per_row(policy, samples, options.samples) / 1e3
    total_gb = row_kb * options.images / 1e6
    print(f"one row of {options.samples}: {row_kb:.1f} KB; {options.images:,} rows: {total_gb:.1f} GB")


def cost_of(
    mode: AskingMode, policy: DiffusionPolicy, samples: Sequence[Sample], group: int
) -> tuple[Cost, Counter[str]]:
    """The cost of a group for an agent with the seed rules and no prototypes, and the tokens read by type."""
    backend, body = CountingBackend(mode), load_body()
    with tempfile.TemporaryDirectory() as folder:
        with open_default_memory(Path(folder), policy, frozen=False):
            pass  # the seed rules
        with open_default_memory(Path(folder), policy, frozen=True) as memory:
            agent = default_agent(policy, body, memory, backend=backend, settings=mode.settings)
            begun = time.process_time()
            build_preferences(policy, agent, samples, Path(folder) / "groups", group_size=group)
            own_s = time.process_time() - begun
    pictures, texts = backend.read["pictures"], backend.read.total() - backend.read["pictures"]
    sums = (backend.calls.total(), backend.images, pictures, texts, backend.written)
    means = [total / len(samples) for total in (*sums, backend.sent_bytes / 1e6, own_s)]
    return Cost(*means), backend.read


def bytes_per_row(policy: DiffusionPolicy, samples: Sequence[Sample], group: int, rows: int = 64) -> float:
    """The size of a group on disk, in a shard of `rows` rows; scenes are repeated with different noise."""

    def nearness(*, hypotheses: Any, **kwargs: Any) -> list[float]:
        return (-hypotheses.params.transl[:, 2]).tolist()

    rng = np.random.default_rng(0)
    copies = []
    for row in range(rows):
        sample = samples[row % len(samples)]
        noisy = sample.image ^ rng.integers(0, 32, sample.image.shape, dtype=np.uint8)
        copies.append(dataclasses.replace(sample, id=f"{sample.id}-{row}", image=noisy))
    with tempfile.TemporaryDirectory() as folder:
        out = build_preferences(policy, RewardMix([nearness]), copies, Path(folder), group_size=group)
        return sum(shard.stat().st_size for shard in out.glob("*.parquet")) / rows


def text_tokens(text: str) -> int:
    """A lower bound of the number of tokens: the pieces that Qwen's tokenizer never joins, and single digits."""
    return sum(1 for _ in PIECES.finditer(text))


def picture_tokens(part: ImagePart) -> int:
    """The number of tokens after the resizing of Qwen's processors: sides to whole tokens, small pictures enlarged."""
    with Image.open(io.BytesIO(part.png)) as image:
        width, height = image.size
    scale = max(1.0, math.sqrt(LEAST_PX / (width * height)))
    round_side = math.ceil if scale > 1 else round
    return max(1, round_side(width * scale / TOKEN_SIDE_PX)) * max(
        1, round_side(height * scale / TOKEN_SIDE_PX)
    )


if __name__ == "__main__":
    main()

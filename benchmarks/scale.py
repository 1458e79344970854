"""The sums of docs/guides/scale.md: what it costs to have the groups of many images judged by a large VLM behind a server.

    python -m benchmarks.scale [--images 1000000] [--samples 20] [--input-tps 5000] [--output-tps 3700]

Wild scenes are posed, drawn and put through the critique's own graph with a judge that answers dummies
(`agent.vlm.wrappers.dry_run`), once for each way of asking: requests, pictures and texts are counted, not guessed. Tokens are
Qwen3-VL's: pictures as its image processor cuts them, text in the pieces that its tokenizer never joins, each of which
is one token or more. GPU time follows from the rates of a server, which are the page's, from measurements that others
published. Storage is a real shard's. No VLM is asked.
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
from agent.vlm.openai import data_url
from agent.vlm.protocol import DataPart, ImagePart
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
# Qwen3-VL's preprocessor_config.json: patches of 16 pixels, merged 2 x 2; no picture of fewer pixels
TOKEN_SIDE_PX, LEAST_PX = 32, 65536
SENT_SIDE_PX = 1024  # the backend's default
PIECES = regex.compile(PRETOKENIZE_REGEX)
HOUR_S = 3600


@dataclass(frozen=True)
class Way:
    """One way of asking about a group."""

    name: str
    settings: CritiqueSettings
    max_images: int | None = None
    doubts: bool = False


WAYS = (
    Way("default, every group doubted", CritiqueSettings(), doubts=True),
    Way("default, no group doubted", CritiqueSettings()),
    Way("one label order", CritiqueSettings(permutations=1)),
    Way("one label order, sheets of six", CritiqueSettings(permutations=1, pictures="montage")),
    Way("default in chunks, 9 pictures at most", CritiqueSettings(), max_images=9),
)


class Counted(DryRun):
    """Counts what a server would read and write; doubts everything or nothing."""

    def __init__(self, way: Way) -> None:
        limit = {} if way.max_images is None else {"max_images": str(way.max_images)}
        super().__init__(load_backend(SPEC, **limit))
        self.doubts = way.doubts
        self.read, self.written = Counter[str](), 0  # tokens, by what they are of
        self.sent_bytes = 0

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        text = super().generate(parts, schema, seed).text
        if not self.doubts:
            text = text.replace('"doubt": true', '"doubt": false')
        with self._lock:  # label orders are asked in threads
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
    """Of one group, mean over the scenes that were tried."""

    calls: float
    pictures: float
    picture_tokens: float
    text_tokens: float
    answer_tokens: float
    sent_mb: float
    own_s: float  # of this process: posing, measuring, drawing

    def gpu_s(self, input_tps: float, output_tps: float) -> float:
        return (self.picture_tokens + self.text_tokens) / input_tps + self.answer_tokens / output_tps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--input-tps", type=float, default=5000.0, help="prompt tokens a second and GPU")
    parser.add_argument("--output-tps", type=float, default=3700.0, help="answer tokens a second and GPU")
    parser.add_argument("--scenes", type=int, default=4, help="that the means are over")
    asked = parser.parse_args()
    policy = load_policy()
    samples = [
        scene.labelled.sample for scene in SceneMaker(load_body(), WILD, seed=0).chunk(0, asked.scenes)
    ]
    cost_of(WAYS[0], policy, samples[:1], asked.samples)  # what is compiled at first use
    print(
        "| way of asking | calls | pictures | picture tokens | text tokens | answer tokens | MB sent |",
        end="",
    )
    print(" GPU hours | core hours |\n|---|---|---|---|---|---|---|---|---|")
    for way in WAYS:
        cost, read = cost_of(way, policy, samples, asked.samples)
        gpu_s = cost.gpu_s(asked.input_tps, asked.output_tps)
        hours = [seconds * asked.images / HOUR_S for seconds in (gpu_s, cost.own_s)]
        numbers = [f"{n:,.0f}" for n in dataclasses.astuple(cost)[:5]] + [f"{cost.sent_mb:.1f}"]
        print(f"| {way.name} | {' | '.join([*numbers, *(f'{h:,.0f}' for h in hours)])} |", flush=True)
        shares = [f"{name} {count / read.total():.0%}" for name, count in read.most_common()]
        print(f"<!-- read: {', '.join(shares)} -->", flush=True)
    row_kb = bytes_a_row(policy, samples, asked.samples) / 1e3
    print(
        f"a row of {asked.samples}: {row_kb:.1f} KB; {asked.images:,} rows: {row_kb * asked.images / 1e6:.1f} GB"
    )


def cost_of(
    way: Way, policy: DiffusionPolicy, samples: Sequence[Sample], group: int
) -> tuple[Cost, Counter[str]]:
    """What one group costs, asked this way, by an agent with the seed rules and no prototype; and what is read."""
    backend, body = Counted(way), load_body()
    with tempfile.TemporaryDirectory() as folder:
        with open_default_memory(Path(folder), policy, frozen=False):
            pass  # the seed rules
        with open_default_memory(Path(folder), policy, frozen=True) as memory:
            agent = default_agent(policy, body, memory, backend=backend, settings=way.settings)
            begun = time.process_time()
            build_preferences(policy, agent, samples, Path(folder) / "groups", group_size=group)
            own_s = time.process_time() - begun
    pictures, texts = backend.read["pictures"], backend.read.total() - backend.read["pictures"]
    sums = (backend.calls.total(), backend.images, pictures, texts, backend.written)
    means = [total / len(samples) for total in (*sums, backend.sent_bytes / 1e6, own_s)]
    return Cost(*means), backend.read


def bytes_a_row(policy: DiffusionPolicy, samples: Sequence[Sample], group: int, rows: int = 64) -> float:
    """Of a group on disk, in one shard of so many rows; scenes are repeated under noise, so that none is another."""

    def nearness(*, hypotheses: Any, **kwargs: Any) -> list[float]:
        return (-hypotheses.params.transl[:, 2]).tolist()

    rng = np.random.default_rng(0)
    many = []
    for row in range(rows):
        sample = samples[row % len(samples)]
        noisy = sample.image ^ rng.integers(0, 32, sample.image.shape, dtype=np.uint8)
        many.append(dataclasses.replace(sample, id=f"{sample.id}-{row}", image=noisy))
    with tempfile.TemporaryDirectory() as folder:
        out = build_preferences(policy, RewardMix([nearness]), many, Path(folder), group_size=group)
        return sum(shard.stat().st_size for shard in out.glob("*.parquet")) / rows


def text_tokens(text: str) -> int:
    """The least number of tokens: the pieces that Qwen's tokenizer never joins, digits one by one."""
    return sum(1 for _ in PIECES.finditer(text))


def picture_tokens(part: ImagePart) -> int:
    """As Qwen's processors resize: sides to whole tokens, small pictures enlarged."""
    with Image.open(io.BytesIO(part.png)) as image:
        width, height = image.size
    zoom = max(1.0, math.sqrt(LEAST_PX / (width * height)))
    cut = math.ceil if zoom > 1 else round
    return max(1, cut(width * zoom / TOKEN_SIDE_PX)) * max(1, cut(height * zoom / TOKEN_SIDE_PX))


if __name__ == "__main__":
    main()

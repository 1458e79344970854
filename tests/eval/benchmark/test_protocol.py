"""The protocol against worked examples, with a toy body whose vertices are its joints."""

import dataclasses
import io
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from rich.console import Console

from agent.agreement import pooled_pearson
from eval.benchmark.intervals import MIN_IMAGES, bootstrap_mean, difference_interval
from eval.benchmark.protocol import ERROR_METRICS, PROTOCOL, Report, ScoredGroup, evaluate_policy
from eval.benchmark.tables import Row, compare, label, rich_table
from eval.critics.agreement import critic_agreement
from hmr.types import BodyParams, Box, Camera, Hypotheses, Labelled, Posed, Sample, Truth

CAMERA = Camera(100.0, 16.0, 16.0, 32, 32)
REST = torch.randn(24, 3, generator=torch.Generator().manual_seed(7))


def toy_body(params: BodyParams) -> Posed:
    """Joint 5 moves with the first beta, a 25th vertex with the second; the other vertices are the joints."""
    joints = (REST + params.transl[..., None, :]).clone()
    joints[..., 5, 0] += params.betas[..., 0]
    extra = joints[..., :1, :].clone()
    extra[..., 0, 0] += params.betas[..., 1]
    return Posed(torch.cat([joints, extra], dim=-2), joints)


def body_params(betas: torch.Tensor) -> BodyParams:
    batch = betas.shape[:-1]
    return BodyParams(torch.zeros(*batch, 3), torch.zeros(*batch, 23, 3), betas, torch.zeros(*batch, 3))


def labelled(identity: str) -> Labelled:
    visible = torch.ones(24, dtype=torch.bool)
    visible[5] = False
    params = body_params(torch.zeros(10))
    truth = Truth(params, CAMERA, REST, torch.zeros(24, 2), visible, np.zeros((32, 32), bool))
    image = np.zeros((32, 32, 3), np.uint8)
    return Labelled(Sample(identity, image, Box(0.0, 0.0, 32.0, 32.0), CAMERA), truth)


@dataclasses.dataclass
class ToyPolicy:
    """Hypothesis m is off by `offsets_mm[m]` at joint 5, with optional noise."""

    offsets_mm: tuple[float, ...]
    noise: float = 0.0

    def encode(self, samples: Sequence[Sample]) -> int:
        return len(samples)

    def sample(self, features: int, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        betas = torch.zeros(features, num_samples, 10)
        betas[..., 0] = torch.tensor(self.offsets_mm[:num_samples]) / 1000
        betas[..., 0] += self.noise * torch.randn(features, num_samples, generator=generator)
        return [Hypotheses(body_params(row), CAMERA) for row in betas]


@dataclasses.dataclass
class ToyScorer:
    scores: list[float | None]
    name: str = "toy"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return self.scores


OFFSETS_MM = (48.0, -24.0, 72.0, 0.0)


def test_reductions_of_a_worked_example() -> None:
    report = evaluate_policy(
        ToyPolicy(OFFSETS_MM),
        toy_body,
        [labelled("a")],
        num_samples=4,
        group_size=3,
        seed=0,
        scorer=ToyScorer([1.0, 0.5, None]),
    )
    # One joint of 24 is off by 48, 24, 72, 0 mm: errors 2, 1, 3, 0.
    assert report.summary()["mpjpe_mm"] == pytest.approx(
        {"min3": 1.0, "min4": 0.0, "mean": 1.5, "pick3": 2.0, "hyp0": 2.0, "averaged": 1.0}, abs=1e-4
    )  # averaged: mean offset (48 - 24 + 72 + 0) / 4 = 24 mm, 24 / 24 = 1, where mean_m is 1.5
    assert report.values["pve_mm"]["hyp0"] == pytest.approx([48 / 25], abs=1e-4)  # 25 vertices
    # Offsets vary about 24 by 24, -48, 48, -24: sqrt((576 + 2304 + 2304 + 576) / 4) = sqrt(1440).
    assert report.summary()["spread_occluded_mm"] == pytest.approx(math.sqrt(1440), abs=1e-3)
    assert report.summary()["spread_visible_mm"] == pytest.approx(0.0, abs=1e-4)
    assert report.groups[0].scores == (1.0, 0.5, None)
    assert report.groups[0].errors_mm["mpjpe_mm"] == pytest.approx([2.0, 1.0, 3.0], abs=1e-4)


def test_uncertainty_is_measured_by_joint() -> None:
    class Doubtful:
        """Twice as wide about joint 5 where an occluder hides it, and off by 30 mm where it is seen."""

        def encode(self, samples: Sequence[Sample]) -> list[bool]:
            return [sample.id.startswith("hidden") for sample in samples]

        def sample(
            self, features: list[bool], num_samples: int, generator: torch.Generator
        ) -> list[Hypotheses]:
            betas = torch.zeros(1, num_samples, 10)
            betas[..., 0] = torch.tensor([-20.0, -10.0, 0.0, 10.0, 20.0]) / 1000
            betas = 2 * betas if features[0] else betas + 0.030
            return [Hypotheses(body_params(betas[0]), CAMERA)]

    def image(name: str) -> Labelled:
        item = labelled(name)
        seen = torch.ones(24, dtype=torch.bool)
        return (
            item
            if name.startswith("hidden")
            else Labelled(item.sample, dataclasses.replace(item.truth, visible=seen))
        )

    images = [image(f"{kind} {number}") for kind in ("hidden", "seen") for number in range(10)]
    report = evaluate_policy(Doubtful(), toy_body, images, num_samples=5, group_size=2, seed=0)
    doubt = report.uncertainty()
    # Joint 5 alone is ever hidden: sqrt((400 + 100 + 0 + 100 + 400) / 5) = sqrt(200), and twice that.
    assert report.values["std_visible_mm"]["right_knee"][-1] == pytest.approx(math.sqrt(200), abs=1e-3)
    assert doubt["spread_occluded_over_visible"] == pytest.approx(2.0, rel=1e-3)
    # Where it is hidden their middle is the truth, where it is seen 30 mm off.
    assert doubt["error_occluded_over_visible"] == pytest.approx(0.0, abs=1e-3)
    # Where it is seen the samples reach from 10 to 50 mm, and the truth is 0: one coordinate of 69 is missed, in
    # half of the images.
    assert doubt["calibration_80"] == pytest.approx(1 - 0.5 / 69, abs=1e-6)
    assert report.spread_mm() == pytest.approx(1.5 * math.sqrt(200) / 23, rel=1e-3)
    fewer = evaluate_policy(Doubtful(), toy_body, images[1:], num_samples=5, group_size=2, seed=0)
    assert fewer.uncertainty()["spread_occluded_over_visible"] is None  # nine images hide it


def test_without_a_scorer_there_is_no_pick() -> None:
    report = evaluate_policy(
        ToyPolicy(OFFSETS_MM), toy_body, [labelled("a")], num_samples=4, group_size=2, seed=0
    )
    assert report.groups == ()
    for metric in ERROR_METRICS:
        summary = report.summary()[metric]
        assert isinstance(summary, dict)
        assert summary["pick2"] is None


def test_an_image_without_scores_is_left_out_of_pick() -> None:
    class Moody(ToyScorer):
        def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
            return [None, None] if sample.id == "a" else [0.0, 1.0]

    report = evaluate_policy(
        ToyPolicy(OFFSETS_MM),
        toy_body,
        [labelled("a"), labelled("b")],
        num_samples=4,
        group_size=2,
        seed=0,
        scorer=Moody([]),
    )
    summary = report.summary()["mpjpe_mm"]
    assert isinstance(summary, dict)
    assert summary["pick2"] == pytest.approx(1.0, abs=1e-4)  # |-24| / 24, image b alone
    assert np.isnan(report.values["mpjpe_mm"]["pick2"]).tolist() == [True, False]


def test_noise_depends_on_image_and_seed_alone() -> None:
    policy = ToyPolicy((0.0,) * 4, noise=0.01)
    images = [labelled("a"), labelled("b")]

    def errors(seed: int, items: list[Labelled]) -> np.ndarray:
        report = evaluate_policy(policy, toy_body, items, num_samples=4, group_size=2, seed=seed)
        return report.values["mpjpe_mm"]["mean"]

    assert errors(0, images).tolist() == errors(0, images[::-1])[::-1].tolist()
    assert errors(0, images)[0] != errors(0, images)[1]
    assert errors(0, images)[0] != errors(1, images)[0]


def test_a_diverged_policy_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"NaN or infinite bodies for image 'a'"):
        evaluate_policy(
            ToyPolicy((math.nan, 0.0)), toy_body, [labelled("a")], num_samples=2, group_size=2, seed=0
        )


@pytest.mark.parametrize(("group_size", "count"), [(1, 4), (5, 4)])
def test_invalid_group_sizes(group_size: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"from 2 to num_samples = {count}, not {group_size}"):
        evaluate_policy(
            ToyPolicy(OFFSETS_MM),
            toy_body,
            [labelled("a")],
            num_samples=count,
            group_size=group_size,
            seed=0,
        )


def test_a_scorer_must_score_every_hypothesis() -> None:
    with pytest.raises(ValueError, match="'toy' gave 1 scores for 2 hypotheses"):
        evaluate_policy(
            ToyPolicy(OFFSETS_MM),
            toy_body,
            [labelled("a")],
            num_samples=4,
            group_size=2,
            seed=0,
            scorer=ToyScorer([1.0]),
        )


def test_the_protocol_is_text_for_metrics_json() -> None:
    assert all(isinstance(text, str) and text for text in PROTOCOL.values())


def flat_report(mean_mm: list[float], spread_mm: float = 30.0) -> Report:
    errors = {metric: {"min20": np.array(mean_mm) / 2, "mean": np.array(mean_mm)} for metric in ERROR_METRICS}
    spreads = {
        f"spread_{where}_mm": {"all": np.full(len(mean_mm), spread_mm)} for where in ("visible", "occluded")
    }
    return Report(tuple(f"image {index}" for index in range(len(mean_mm))), errors | spreads, ())


def printed(rows: Sequence[Row]) -> list[str]:
    """The lines of the table on a wide terminal, without its rules."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(rich_table(rows))
    lines = (line.strip(" │┃") for line in console.export_text().splitlines())
    return [re.sub(r"\s*[│┃]\s*", "  ", line) for line in lines]


def test_a_paired_difference_has_a_narrow_interval() -> None:
    hard = np.linspace(50.0, 250.0, 40)
    rows = compare(
        {
            "base": [flat_report(list(hard))] * 3,
            "aligned": [flat_report(list(hard - 5.0))] * 3,
            "shuffled": [flat_report(list(hard[::-1]))] * 3,
        }
    )
    row = next(row for row in rows if (row.metric, row.reduction) == ("mpjpe_mm", "mean"))
    base, aligned, shuffled = row.values["base"], row.differences["aligned"], row.differences["shuffled"]
    assert base is not None
    assert aligned is not None
    assert shuffled is not None
    assert base.mean == pytest.approx(150.0)
    assert base.half_width > 10
    assert (aligned.low, aligned.high) == pytest.approx((-5.0, -5.0))
    assert aligned.excludes_zero
    assert shuffled.mean == pytest.approx(0.0, abs=1e-9)
    assert not shuffled.excludes_zero
    (line,) = (line for line in printed(rows) if line.startswith("mean_m MPJPE(h_m)"))
    assert line.split()[2:7] == ["150.0", "145.0", "150.0", "-5.0", "±"]
    assert rich_table(rows).row_count == len(rows) == 3 * 2 + 2


def test_differences_need_the_same_images() -> None:
    with pytest.raises(ValueError, match="same images"):
        compare({"base": [flat_report([1.0, 2.0])], "aligned": [flat_report([1.0])]})


def test_another_reference_than_the_base() -> None:
    reports = {"matched": [flat_report([10.0, 20.0] * 5)], "oracle": [flat_report([8.0, 18.0] * 5)]}
    rows = compare(reports, reference="matched")
    assert set(rows[0].differences) == {"oracle"}
    change = rows[1].differences["oracle"]
    assert change is not None
    assert change.mean == pytest.approx(-2.0)
    assert any("oracle - matched" in line for line in printed(rows))


def test_a_few_images_have_no_interval_and_no_verdict() -> None:
    """Nine differences of one sign: all resamples are below zero, and the interval would be too."""
    rows = compare({"base": [flat_report([100.0] * 9)], "aligned": [flat_report([97.0] * 9)]})
    assert [row.differences["aligned"] for row in rows] == [None] * len(rows)
    (line,) = (line for line in printed(rows) if line.startswith("mean_m MPJPE(h_m)"))
    assert line.split()[2:] == ["100.0", "97.0", "-"]


def test_a_difference_counts_the_images_with_a_value() -> None:
    values = np.full((2, MIN_IMAGES + 5), -3.0)
    values[:, MIN_IMAGES:] = np.nan
    values[0, 0] = np.nan  # known for the other seed
    assert difference_interval(values) == bootstrap_mean(values)
    values[:, 0] = np.nan
    assert difference_interval(values) is None


def test_labels_are_formulas() -> None:
    assert label("mpjpe_mm", "min20") == "min_{m<20} MPJPE(h_m)"
    assert label("pve_mm", "averaged") == "PVE(avg_m h_m)"
    assert label("pa_mpjpe_mm", "pick20") == "PA-MPJPE(h_argmax s), m<20"
    assert label("spread_visible_mm", "all") == "spread, visible joints"


def test_the_bootstrap_covers_a_known_mean() -> None:
    """The interval of n normal values has half-width near 1.96 / sqrt(n)."""
    values = np.random.default_rng(0).normal(size=(1, 400))
    interval = bootstrap_mean(values)
    assert interval is not None
    assert interval.half_width == pytest.approx(1.96 / 20, rel=0.1)
    assert bootstrap_mean(values) == interval  # seeded
    assert bootstrap_mean(np.full((2, 3), np.nan)) is None


def test_the_bootstrap_resamples_seeds_too() -> None:
    values = np.array([[0.0] * 50, [10.0] * 50, [20.0] * 50])  # all of the doubt lies between seeds
    interval = bootstrap_mean(values)
    assert interval is not None
    assert interval.half_width > 5


def group(scores: list[float | None], errors: list[float]) -> ScoredGroup:
    return ScoredGroup("a", tuple(scores), {metric: np.array(errors) for metric in ERROR_METRICS})


def test_agreement_is_measured_by_group() -> None:
    perfect = group([3.0, 2.0, 1.0], [10.0, 20.0, 30.0])
    upside_down = group([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])
    assert critic_agreement([perfect]).summary() == pytest.approx({"srcc": 1.0, "krcc": 1.0, "plcc": 1.0})
    # Scores 1, 3, 2 against errors 10, 20, 30: ranks differ by 2, 1, 1 from the right order's 3, 2, 1, so
    # rho = 1 - 6 * (4 + 1 + 1) / (3 * 8) = -0.5; of three pairs one agrees and two do not: tau = -1/3.
    muddled = critic_agreement([group([1.0, 3.0, 2.0], [10.0, 20.0, 30.0])]).summary()
    assert muddled["srcc"] == pytest.approx(-0.5)
    assert muddled["krcc"] == pytest.approx(-1 / 3)
    assert critic_agreement([perfect, upside_down]).summary()["srcc"] == pytest.approx(0.0)


def test_pearson_weights_groups_by_their_scored_hypotheses() -> None:
    larger = group([4.0, 3.0, 2.0, 1.0], [10.0, 20.0, 30.0, 40.0])
    smaller = group([1.0, 2.0, 3.0, None], [10.0, 20.0, 30.0, 40.0])
    agreement = critic_agreement([larger, smaller])
    pairs = [(each.scores, each.errors_mm["mpjpe_mm"].tolist()) for each in (larger, smaller)]
    assert agreement.summary()["plcc"] == pytest.approx((4 * 1 + 3 * -1) / 7)
    assert agreement.summary()["plcc"] == pytest.approx(pooled_pearson(pairs))
    assert agreement.none_rate == 1 / 8


def test_groups_without_a_correlation_are_left_out_and_counted() -> None:
    silent = group([None, None, 1.0], [10.0, 20.0, 30.0])
    constant = group([5.0, 5.0, 5.0], [10.0, 20.0, 30.0])
    agreement = critic_agreement([silent, constant, group([3.0, 2.0, 1.0], [10.0, 20.0, 30.0])])
    assert (agreement.groups_used, agreement.groups) == (1, 3)
    assert agreement.summary()["srcc"] == pytest.approx(1.0)
    assert critic_agreement([silent]).summary() == {"srcc": None, "krcc": None, "plcc": None}

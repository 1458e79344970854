"""The benchmark of HMDiff's options compares settings that differ in one thing."""

import pytest

from benchmarks.policy.hmdiff import main, variants
from hmr.policy.config import SamplingSettings

OWN = SamplingSettings("dpm++", 10, 1.1, "distribution", 0.2, 0.7)


def test_every_row_differs_from_unit_noise_in_its_start_or_its_alignment():
    rows = variants(OWN, 4, [0.33, 0.5], 1.0)
    names = [
        "unit",
        "distribution, 0.33",
        "distribution, 0.5",
        "unit, aligned",
        "distribution, 0.33, aligned",
    ]
    assert list(rows) == names
    assert rows["unit"] == SamplingSettings("dpm++", 4, 1.1, "unit", 0.2, 0.0)
    assert [row.start_time for row in rows.values()] == [0.2, 0.33, 0.5, 0.2, 0.33]
    assert [row.alignment for row in rows.values()] == [0, 0, 0, 1, 1]
    assert {(row.solver, row.num_inference_steps, row.noise_temperature) for row in rows.values()} == {
        ("dpm++", 4, 1.1)
    }


@pytest.mark.slow
def test_the_table_has_a_row_for_every_variant_and_number_of_steps(capsys):
    main(split="street-test", base="studio", images=2, samples=4, steps=[1], start_time=[0.5])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1")]
    starts = [line.split("|")[2].strip() for line in lines]
    assert starts[:4] == ["unit", "distribution, 0.5", "unit, aligned", "distribution, 0.5, aligned"]
    assert starts[4].startswith("unit, noise x ")
    assert starts[5:9] == starts[:4]  # the policy's own 10 steps
    assert len(lines) == 10

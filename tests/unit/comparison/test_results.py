"""Two variants, two seeds, straight accuracy curves: every figure can be worked out by hand."""

from __future__ import annotations

import json

import pytest
from test_curves import step_row

from megatron_ar3po.comparison.cli import report
from megatron_ar3po.comparison.curves import curve_of
from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.comparison.figure import mean_curve
from megatron_ar3po.comparison.results import compare, read_curves
from megatron_ar3po.comparison.statistics import Interval
from megatron_ar3po.comparison.table import rows_of, to_markdown


def straight(start: float, end: float, steps: int = 4) -> list[dict]:
    """100 responses a step, an evaluation each step."""
    rise = (end - start) / steps
    rows = [step_row(s, start + rise * s) for s in range(1, steps + 1)]
    return [{"step": 0, "eval/pass_at_1": start}, *rows]


ONE = [straight(0.4, 0.8), straight(0.2, 0.6)]
OTHER = [straight(0.4, 0.6, steps=8), straight(0.2, 0.4, steps=8)]


def sure(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def comparison():
    curves = {
        "ar3po": [curve_of(rows) for rows in ONE],
        "dapo": [curve_of(rows) for rows in OTHER],
    }
    return compare(curves, seeds=(0, 1), target=0.5, num_budgets=4), curves


def test_accuracies_are_compared_where_every_run_has_been() -> None:
    """ar3po has 400 responses, dapo 800. At 400: 0.8 and 0.6 against 0.5 and 0.3, differences 0.3 and 0.3."""
    found, _ = comparison()
    ar3po, dapo = found.variants
    assert found.budgets == (100, 200, 300, 400)
    assert sure(ar3po.accuracy_at_responses[400]).mean == pytest.approx(0.7)
    assert sure(dapo.accuracy_at_responses[400]).mean == pytest.approx(0.4)
    assert sure(dapo.minus_first[400]).mean == pytest.approx(0.3)
    assert sure(dapo.minus_first[400]).half_width == pytest.approx(0, abs=1e-12)
    assert ar3po.minus_first[400] is None


def test_the_mean_of_two_seeds_is_as_sure_as_student_says() -> None:
    """0.8 and 0.6: s = 0.141421, t(1) = 12.706205, half width 1.270620."""
    found, _ = comparison()
    assert found.variants[0].after.half_width == pytest.approx(1.270620, abs=1e-6)


def test_the_target_counts_the_runs_that_reached_it() -> None:
    """0.5: seed 0 of ar3po after 100 responses, seed 1 after 300; of dapo seed 0 after 400, seed 1 never."""
    found, _ = comparison()
    ar3po, dapo = (v.to_target["responses"] for v in found.variants)
    assert (sure(ar3po.spent).mean, ar3po.num_reached, ar3po.num_runs) == (pytest.approx(200), 2, 2)
    assert (sure(dapo.spent).mean, dapo.num_reached, dapo.num_runs) == (pytest.approx(400), 1, 2)


def test_a_run_that_never_crossed_counts_with_all_it_spent() -> None:
    """dapo: 400 / 100 with seed 0; with seed 1 never within 800 responses: at least 800 / 300. sqrt(4 * 8 / 3)."""
    found, _ = comparison()
    ar3po, dapo = (v.to_target_times_first["responses"] for v in found.variants)
    assert ar3po is None and dapo is not None
    assert dapo.ratio.mean == pytest.approx((32 / 3) ** 0.5)
    assert dapo.num_at_least == 1


def test_there_is_no_ratio_to_a_run_that_never_crossed() -> None:
    curves = {"ar3po": [curve_of(ONE[0])], "dapo": [curve_of(OTHER[0])]}
    found = compare(curves, seeds=(0,), target=0.95)
    assert found.variants[1].to_target_times_first["responses"] is None


def test_a_mean_curve_ends_where_its_first_run_ends() -> None:
    runs = [curve_of(straight(0.4, 0.8, steps=4)), curve_of(straight(0.2, 0.6, steps=8))]
    spent, means = mean_curve(runs, "responses")
    assert (spent[0], spent[-1]) == (0, 400)
    assert means[0].mean == pytest.approx(0.3)
    assert means[-1].mean == pytest.approx((0.8 + 0.4) / 2)


def test_the_table_has_one_cell_a_variant_and_the_papers_figures_in_their_units() -> None:
    found, _ = comparison()
    rows = dict(rows_of(found))
    assert all(len(cells) == 2 for cells in rows.values())
    assert rows["responses per prompt drawn, last quarter"] == [
        "6.25 ± 0.00 (paper: 5.7)",
        "6.25 ± 0.00",
    ]
    assert rows["responses per filled slot, last quarter"][1] == "6.25 ± 0.00 (paper: about 24)"
    assert rows["responses to pass@1 0.5"][1] == "400 (1/2)"
    assert rows["ar3po - this, at 400 (paired)"] == ["", "+0.300 ± 0.000"]
    assert "| pass@1 before | 0.300 ± 1.271 | 0.300 ± 1.271 |" in to_markdown(found)


def test_a_report_holds_the_seeds_that_every_variant_has_finished(tmp_path) -> None:
    experiment = Experiment(
        config=tmp_path / "config.yaml",
        variants=(Variant(name="ar3po", words=()), Variant(name="dapo", words=())),
        seeds=(0, 1),
        target=0.5,
    )
    runs = {"ar3po-s0": ONE[0], "ar3po-s1": ONE[1], "dapo-s0": OTHER[0]}
    for name, rows in runs.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        words = [f"run.seed={name[-1]}", "run.progress=plain", "responses=0"]
        (folder / "comparison.json").write_text(json.dumps({"words": words}))
    seeds, curves = read_curves(experiment, tmp_path)
    assert seeds == (0,)
    assert [len(runs) for runs in curves.values()] == [1, 1]
    report(experiment, tmp_path)
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["seeds"] == [0]
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "comparison.md").read_text().startswith("Seeds 0;")


def test_nothing_finished_is_nothing_to_compare(tmp_path) -> None:
    experiment = Experiment(
        config=tmp_path / "c.yaml", variants=(Variant(name="ar3po", words=()),), seeds=(0,)
    )
    with pytest.raises(ValueError, match="no seed has been finished by every variant"):
        read_curves(experiment, tmp_path)

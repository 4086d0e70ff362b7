"""Two variants, two seeds, straight accuracy curves: every figure can be worked out by hand."""

from __future__ import annotations

import json

import pytest
from test_curves import step_row

from megatron_ar3po.comparison.cli import report
from megatron_ar3po.comparison.curves import curve_of
from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.comparison.figure import draw, mean_curve, target_mark
from megatron_ar3po.comparison.results import compare, read_curves
from megatron_ar3po.comparison.statistics import Interval
from megatron_ar3po.comparison.table import rows_of, to_markdown
from megatron_ar3po.config.load import load_config, to_yaml


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


def test_the_target_counts_a_run_that_never_crossed_with_all_it_spent() -> None:
    """0.5: seed 0 of ar3po after 100 responses, seed 1 after 300; of dapo seed 0 after 400, seed 1 never within 800: at
    least (400 + 800) / 2."""
    found, _ = comparison()
    ar3po, dapo = (v.to_target["responses"] for v in found.variants)
    assert (sure(ar3po.spent).mean, ar3po.num_reached, ar3po.num_runs) == (pytest.approx(200), 2, 2)
    assert ar3po.at_least is None and ar3po.at_most is None
    assert (dapo.spent, dapo.at_least) == (None, pytest.approx(600))
    assert (dapo.num_reached, dapo.num_runs) == (1, 2)


def compare_two(first: list, other: list, target: float):
    curves = {"first": [curve_of(first)], "other": [curve_of(other)]}
    return compare(curves, seeds=(0,), target=target)


def ratio_of(found):
    times = found.variants[1].to_target_times_first["responses"]
    return times.bound and (times.bound.side, pytest.approx(times.bound.ratio.mean))


def test_the_ratio_is_a_lower_bound_where_this_one_never_crossed() -> None:
    """dapo: 400 / 100 with seed 0; with seed 1 never within 800 responses: at least 800 / 300. sqrt(4 * 8 / 3)."""
    found, _ = comparison()
    ar3po, dapo = (v.to_target_times_first["responses"] for v in found.variants)
    assert ar3po is None and dapo is not None and dapo.bound is not None
    assert (dapo.bound.side, dapo.bound.ratio.mean) == ("at_least", pytest.approx((32 / 3) ** 0.5))
    assert (dapo.num_never, dapo.num_first_never) == (1, 0)


def test_the_ratio_is_an_upper_bound_where_the_first_one_never_crossed() -> None:
    """0.7: after 300 responses from 0.4 to 0.8; never within the 800 from 0.4 to 0.6. 300 of at least 800, 0.375."""
    found = compare_two(straight(0.4, 0.6, steps=8), straight(0.4, 0.8), 0.7)
    assert ratio_of(found) == ("at_most", 0.375)
    rows = dict(rows_of(found))
    assert rows["responses to pass@1 0.7"] == ["≥ 800 (0/1)", "300 (1/1)"]
    ratio = rows["responses to the target / first's (paired)"]
    assert ratio == ["", "≤ 0.37, never: 1 of the first"]


def test_seconds_are_shown_with_a_decimal_and_responses_without() -> None:
    """0.625 lies 2.25 of 4 steps on the way from 0.4 to 0.8, each of 100 responses and two seconds."""
    rows = dict(rows_of(compare_two(ONE[0], ONE[0], 0.625)))
    assert rows["responses to pass@1 0.625"][0] == "225 (1/1)"
    assert rows["seconds to pass@1 0.625"][0] == "4.5 (1/1)"


def test_where_neither_crossed_nothing_is_said_of_their_ratio() -> None:
    found = compare_two(ONE[0], OTHER[0], 0.95)
    assert ratio_of(found) is None
    [_, cell] = dict(rows_of(found))["responses to the target / first's (paired)"]
    assert cell == "-, never: 1 of this and 1 of the first"


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        (straight(0.4, 0.8), straight(0.6, 0.8), ("at_most", 0.0)),  # 0 responses of 100
        (straight(0.6, 0.8), straight(0.4, 0.8), None),  # 100 responses of none
        (straight(0.6, 0.8), straight(0.6, 0.8), None),  # none of none
        (straight(0.4, 0.8), straight(0.6, 0.8)[1:], ("at_most", 1.0)),  # at most 100 of 100
        (straight(0.6, 0.8)[1:], straight(0.4, 0.8), ("at_least", 1.0)),  # 100 of at most 100
    ],
)
def test_a_target_that_is_reached_at_the_first_evaluation_is_no_division_by_nothing(
    first, other, expected, tmp_path
) -> None:
    """0.5. The first evaluation comes before the first step, or after it, at 100 responses."""
    found = compare_two(first, other, 0.5)
    assert ratio_of(found) == expected
    curves = {"first": [curve_of(first)], "other": [curve_of(other)]}
    draw(found, curves, tmp_path / "figure.png")
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_figure_marks_a_bound_by_an_arrow() -> None:
    found, _ = comparison()
    ar3po, dapo = (v.to_target["responses"] for v in found.variants)
    assert target_mark(ar3po) == (pytest.approx(200), "o")
    assert target_mark(dapo) == (pytest.approx(600), ">")


def test_with_a_budget_accuracies_are_compared_at_its_parts() -> None:
    """Runs of 400 and 800 responses that were asked for 300: at 100, 200 and 300, where they were evaluated."""
    curves = {"ar3po": [curve_of(ONE[0])], "dapo": [curve_of(OTHER[0])]}
    found = compare(curves, seeds=(0,), target=0.0, num_budgets=3, responses=300)
    assert found.budgets == (100, 200, 300)


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
    assert rows["responses to pass@1 0.5"] == ["200 ± 1,271 (2/2)", "≥ 600 (1/2)"]
    assert rows["ar3po - this, at 400 (paired)"] == ["", "+0.300 ± 0.000"]
    assert "| pass@1 before | 0.300 ± 1.271 | 0.300 ± 1.271 |" in to_markdown(found)


def test_a_report_holds_the_seeds_that_every_variant_has_finished(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("evaluation: {path: held_out.jsonl}\n")
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
        resolved = load_config([tmp_path / "config.yaml"], [f"run.seed={name[-1]}"])
        (folder / "resolved_config.yaml").write_text(to_yaml(resolved))
        (folder / "comparison.json").write_text("{}")
    seeds, curves = read_curves(experiment, tmp_path)
    assert seeds == (0,)
    assert [len(runs) for runs in curves.values()] == [1, 1]
    report(experiment, tmp_path)
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["seeds"] == [0]
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "comparison.md").read_text().startswith("Seeds 0;")
    assert "<title>ar3po against dapo</title>" in (tmp_path / "comparison.html").read_text()


def test_nothing_finished_is_nothing_to_compare(tmp_path) -> None:
    experiment = Experiment(
        config=tmp_path / "c.yaml", variants=(Variant(name="ar3po", words=()),), seeds=(0,)
    )
    with pytest.raises(ValueError, match="no seed has been finished by every variant"):
        read_curves(experiment, tmp_path)

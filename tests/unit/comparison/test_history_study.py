"""benchmarks/study: what the rules of docs/comparison.md make of curves; each with numbers worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.study.arms import Arms, read_arms
from benchmarks.study.figure import draw
from benchmarks.study.runs import (
    Evaluated,
    Run,
    accuracy_at,
    collect,
    read_run,
    read_runs,
    spent_until,
)
from benchmarks.study.tables import tell_results, tell_verdict
from benchmarks.study.winners import Setting, choose_arms, choose_winner, score_settings

NAMES = ("pass_at_1", "pass_at_4", "core/pass_at_1", "mixed/pass_at_1", "easy/pass_at_1")
MORE = ("easy/pass_at_4", "train_core/pass_at_1", "train_mixed/pass_at_1", "train_easy/pass_at_1")


def run_of(variant: str, seed: int, *accuracies: float, budget: float = 3000.0) -> Run:
    """Evaluated before the first step and at equal parts of the budget."""
    parts = len(accuracies) - 1
    points = [
        Evaluated(
            step=number,
            responses=budget * number / parts,
            tokens=10 * budget * number / parts,
            seconds=60.0 * number,
            accuracy=dict.fromkeys((*NAMES, *MORE), accuracy),
            entropy=None if number == 0 else 0.25,
        )
        for number, accuracy in enumerate(accuracies)
    ]
    return Run(variant=variant, seed=seed, points=tuple(points))


def plant(folder: Path, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text("{}")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


ROWS: list[dict[str, object]] = [
    {"step": 0, "eval/pass_at_1": 0.25, "rollout/responses_total": 0},
    {"step": 1, "rollout/responses_total": 24, "time/step_s": 2.0, "actor/entropy": 0.5},
    {
        "step": 2,
        "rollout/responses_total": 60,
        "rollout/cost/redone_responses_total": 12,
        "rollout/tokens_total": 480,
        "time/step_s": 3.0,
        "actor/entropy": 0.25,
        "eval/pass_at_1": 0.5,
        "eval/source/easy/pass_at_4": 1.0,
        "eval/set/train_core/pass_at_1": 0.125,
    },
]


def test_a_run_is_read_at_its_evaluations_with_what_it_had_spent(tmp_path):
    """60 responses less 12 done again, 2 + 3 seconds, the mean entropy of both steps; a row without an evaluation adds
    to what was spent and is no point of the curve."""
    plant(tmp_path / "run", ROWS)
    before, after = read_run(tmp_path / "run", "grpo", 3).points
    assert (before.responses, before.entropy, before.accuracy) == (0, None, {"pass_at_1": 0.25})
    assert (after.step, after.responses, after.tokens, after.seconds) == (2, 48, 480, 5.0)
    assert after.entropy == 0.375
    assert after.accuracy == {
        "pass_at_1": 0.5,
        "easy/pass_at_4": 1.0,
        "train_core/pass_at_1": 0.125,
    }


def test_runs_are_collected_once_and_those_there_stay(tmp_path):
    results = tmp_path / "results"
    plant(tmp_path / "first/runs/grpo_4-s0", ROWS)
    assert collect("tiny_sum", tmp_path / "first", results).endswith("1 runs, 1 of them new")
    plant(tmp_path / "second/runs/grpo_4-s0", [{**ROWS[0], "eval/pass_at_1": 0.75}])
    plant(tmp_path / "second/runs/grpo_4-s1", ROWS)
    assert collect("tiny_sum", tmp_path / "second", results).endswith("2 runs, 1 of them new")
    kept = read_runs("tiny_sum", results)
    assert [(run.seed, run.points[0].accuracy["pass_at_1"]) for run in kept] == [
        (0, 0.25),
        (1, 0.25),
    ]


def test_a_folder_without_a_finished_run_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run of a comparison"):
        collect("tiny_sum", tmp_path, tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_accuracy_lies_on_the_line_between_evaluations_and_stays_at_the_last():
    run = run_of("grpo_4_8e-4_6", 0, 0.2, 0.4, 0.8)
    assert accuracy_at(run, 750) == pytest.approx(0.3)
    assert accuracy_at(run, 9000) == 0.8
    assert spent_until(run, 0.6) == (2250, 2250)
    assert spent_until(run, 0.9) == (3000, math.inf)


def test_a_setting_scores_the_mean_of_five_budgets_and_its_seeds():
    """From 0 to 1 over 2,000 responses: 0.2, 0.4, 0.6, 0.8 and 1, so 0.6; all 0.5: 0.5; together 0.55."""
    runs = [
        run_of("grpo_4_8e-4_6", 100, 0.0, 1.0, budget=2000),
        run_of("grpo_4_8e-4_6", 101, 0.5, 0.5, budget=2000),
        run_of("dapo_4_8e-4_3", 100, 0.7, 0.7, budget=2000),
    ]
    first, second = score_settings(runs)
    assert (first.name, first.score) == ("dapo_4_8e-4_3", pytest.approx(0.7))
    assert (second.name, second.score) == ("grpo_4_8e-4_6", pytest.approx(0.55))


def test_the_arms_are_each_familys_winner_and_the_two_next_of_all():
    names = {
        "history_replay_8e-4_24": 0.73,
        "history_1_8e-4_24": 0.70,
        "history_1_4e-4_24": 0.60,
        "grpo_4_8e-4_6": 0.59,
        "grpo_4_8e-4_16": 0.586,  # a tie with the one before, and more prompts a step
        "dapo_4_8e-4_3": 0.55,
        "ar3po_2x2_8e-4_12": 0.56,
    }
    settings = [Setting(name=name, score=score) for name, score in names.items()]
    winners, challengers = choose_arms(settings)
    assert [w.name for w in winners] == [
        "grpo_4_8e-4_16",
        "dapo_4_8e-4_3",
        "ar3po_2x2_8e-4_12",
        "history_replay_8e-4_24",
    ]
    assert [c.name for c in challengers] == ["history_1_8e-4_24", "history_1_4e-4_24"]
    assert choose_winner(settings[3:4]).name == "grpo_4_8e-4_6"


@pytest.fixture
def arms() -> Arms:
    """On tiny_sum, target 0.6: GRPO crosses at 1,500 and 2,250, history at 750 and 500."""
    grpo = [run_of("grpo_4", 0, 0.2, 0.6, 0.8), run_of("grpo_4", 1, 0.2, 0.4, 0.8)]
    dapo = [run_of("dapo_4", 0, 0.2, 0.3, 0.4), run_of("dapo_4", 1, 0.2, 0.3, 0.4)]
    history = [run_of("history_1", 0, 0.2, 1.0, 1.0), run_of("history_1", 1, 0.4, 1.0, 1.0)]
    runs = {"grpo_4": grpo, "dapo_4": dapo, "history_1": history, "history_negative": grpo}
    return Arms(task="tiny_sum", runs=runs)


def test_the_best_baseline_needs_fewest_responses_and_who_never_crosses_counts_with_all(arms):
    assert arms.spent("dapo_4", "responses") == [(3000, math.inf)] * 2
    assert arms.cheapest(["grpo", "dapo", "ar3po"]) == "grpo_4"


def test_the_verdict_is_the_ratio_of_the_seeds_and_what_was_not_lost(arms):
    """1,500 / 750 = 2 and 2,250 / 500 = 4.5: 3, their geometric mean. At the end 1.0 - 0.8 in both seeds."""
    lines = tell_verdict(arms).splitlines()
    assert lines[0] == "- best history arm history_1, best baseline grpo_4, seeds [0, 1]"
    assert lines[1].startswith("- factor equal 3.00 (")
    assert any(line.startswith("- history_1 against grpo_4: equal 3.00 (") for line in lines)
    same = "equal 1.00 (1.00 to 1.00)"
    assert f"- history_negative against grpo_4: {same}, of seconds {same}" in lines
    assert "- pass_at_1 at 100%: +0.200 ± 0.000" in lines
    assert "- easy/pass_at_4 at 50%: +0.500 ± 1.271" in lines  # 0.4 and 0.6: 0.1 * 12.706


def test_a_table_has_both_halves_and_only_seeds_that_every_arm_has_finished(tmp_path):
    rows = [
        run_of("grpo_4_8e-4_6", 0, 0.2, 0.6, 0.8),
        run_of("history_1_8e-4_24", 0, 0.2, 1.0, 1.0),
        run_of("history_1_8e-4_24", 1, 0.0, 0.0, 0.0),
    ]
    lines = [json.dumps({**vars(r), "points": [vars(p) for p in r.points]}) for r in rows]
    (tmp_path / "tiny_sum.jsonl").write_text("\n".join(lines) + "\n")
    told = tell_results("tiny_sum", results=tmp_path)
    assert told.startswith("## tiny_sum, 1 seeds")
    assert "| pass@1 at 1,500 responses | 0.600 | 1.000 |" in told
    assert "| pass@1 at 3,000 responses | 0.800 | 1.000 |" in told
    assert "| responses to 0.60 | 1,500 (1/1) | 750 (1/1) |" in told
    assert "| seconds of steps to 0.60 | 60 (1/1) | 30 (1/1) |" in told
    assert read_arms("tiny_sum_core", results=tmp_path) is None
    assert tell_results("tiny_sum_core", results=tmp_path).endswith(
        "no seed that every arm has finished"
    )


def test_the_figure_has_a_column_for_each_task(arms, tmp_path):
    draw([arms], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

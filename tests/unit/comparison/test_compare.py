"""`ar3po compare`: runs that are there, side by side at equal cost, on planted runs."""

import doctest
import json
from array import array
from pathlib import Path

import numpy as np
import pytest
from fakes.planted_run import PlantedRun

from megatron_ar3po.cli import main
from megatron_ar3po.comparison import run_differences
from megatron_ar3po.comparison.aligned import align_variants, pass_rates, value_at
from megatron_ar3po.comparison.bootstrap import resample_mean
from megatron_ar3po.comparison.compared_runs import (
    ComparedRun,
    RunGroup,
    group_runs,
    positions_of,
    read_compared_run,
)
from megatron_ar3po.comparison.run_differences import describe_differences, describe_options
from megatron_ar3po.reporting.visits import Visits


def test_the_worked_examples_hold():
    results = doctest.testmod(run_differences)
    assert results.attempted and not results.failed


def plant_run(name="a", *, seed=0, rows=None, options=None, facts=None, visits=None) -> ComparedRun:
    rows = rows or make_rows(0.4, 0.6)
    return ComparedRun(
        name=name,
        options={"algorithm.name": name[0], **(options or {})},
        facts={"packages (sglang)": "0.5", **(facts or {})},
        seed=seed,
        rows=rows,
        positions=positions_of(rows),
        visits=visits or Visits(),
    )


def make_rows(*accuracies: float, per_step: int = 600, error: float | None = None) -> list:
    """One step between two evaluations."""
    more = {} if error is None else {"eval/pass_at_1_stderr": error}
    return [
        {"step": step, "eval/pass_at_1": accuracy, "time/step_s": float(step > 0),
         "rollout/responses_total": per_step * step, "rollout/tokens_total": 10 * per_step * step, **more}
        for step, accuracy in enumerate(accuracies)
    ]  # fmt: skip


def test_accuracies_are_read_off_the_line_between_evaluations_as_far_as_every_run_came():
    """One run came to 1,200 responses, the other to 600. At 100 they have 0.4 + 0.2/6 and 0.3 + 0.3/6."""
    groups = [
        RunGroup(name="a", runs=(plant_run("a", rows=make_rows(0.4, 0.6, 0.7)),)),
        RunGroup(name="b", runs=(plant_run("b", rows=make_rows(0.3, 0.6)),)),
    ]
    found = align_variants(groups, "responses")
    assert found.points == (100, 200, 300, 400, 500, 600)
    one, other = found.variants
    assert one.accuracy[0] == (pytest.approx(0.4 + 0.2 / 6), None, None)
    assert other.minus_first[0].mean == pytest.approx(-0.1 + 0.1 / 6)
    assert other.minus_first[5].mean == pytest.approx(0)
    assert one.minus_first == (None,) * 6
    assert one.totals == {"steps": 2, "responses": 1200, "tokens": 12000, "seconds": 2}
    assert align_variants(groups, "seconds").points[-1] == 1
    assert value_at(groups[1].runs[0], "eval/pass_at_1", "responses", 601) is None


def test_one_pair_of_seeds_goes_by_the_evaluations_errors_and_several_by_their_spread():
    """0.03 and 0.04 make 0.05: 1.96 x 0.05 = 0.098. Differences 0.1 and 0.2: t(1) = 12.7062 x 0.0707107 / sqrt(2)."""
    one = RunGroup(name="a", runs=(plant_run("a", rows=make_rows(0.4, 0.6, error=0.03)),))
    other = RunGroup(name="b", runs=(plant_run("b", rows=make_rows(0.5, 0.7, error=0.04)),))
    found = align_variants([one, other], "responses").variants[1].minus_first[-1]
    assert (found.mean, found.low, found.pairs) == (
        pytest.approx(0.1),
        pytest.approx(0.002, abs=1e-5),
        1,
    )
    runs = [plant_run(f"a{s}", seed=s, rows=make_rows(0.4, 0.5 + s / 10)) for s in (0, 1)]
    better = [plant_run(f"b{s}", seed=s, rows=make_rows(0.4, 0.6 + s / 5)) for s in (0, 1)]
    groups = [RunGroup(name=n, runs=tuple(r)) for n, r in (("a", runs), ("b", better))]
    found = align_variants(groups, "responses").variants[1].minus_first[-1]
    assert (found.mean, found.pairs) == (pytest.approx(0.15), 2)
    assert found.high == pytest.approx(0.15 + 12.7062 * 0.0707107 / 2**0.5, abs=1e-4)


def make_visits(*seen: tuple[int, int, tuple]) -> Visits:
    """(step, prompt, stages) each."""
    outcomes = list(dict.fromkeys(stages for *_, stages in seen))
    return Visits(
        steps=array("q", [step for step, *_ in seen]),
        prompts=array("q", [prompt for _, prompt, _ in seen]),
        kinds=array("q", [outcomes.index(stages) for *_, stages in seen]),
        tokens=array("d", [1.0] * len(seen)),
        outcomes=outcomes,
        prompt_ids=[f"p{i}" for i in range(1 + max(prompt for _, prompt, _ in seen))],
    )


def test_training_is_paired_by_prompts_over_first_stages_of_the_last_quarter():
    """Four steps; the last quarter is the fourth. p0: 2 of 4 beside 4 of 4; p1: 0 of 4 (solved in its second stage)
    beside 1 of 4; p2 is seen by one run alone. The differences are 0.5 and 0.25."""
    rows = make_rows(0.1, 0.1, 0.1, 0.1, 0.1)
    ours = make_visits(
        (1, 0, ((4, 4),)), (4, 0, ((4, 2),)), (4, 1, ((4, 0), (4, 3))), (4, 2, ((4, 4),))
    )
    theirs = make_visits((4, 1, ((4, 1),)), (4, 0, ((4, 4),)), (3, 2, ((4, 0),)))
    first, other = plant_run("a", rows=rows, visits=ours), plant_run("b", rows=rows, visits=theirs)
    assert pass_rates(first, "steps", 3, 4) == {"p0": 0.5, "p1": 0.0, "p2": 1.0}
    groups = [RunGroup(name=run.name, runs=(run,)) for run in (first, other)]
    found = align_variants(groups, "steps").variants[1].training_minus_first
    assert (found.mean, found.low, found.high) == pytest.approx((0.375, 0.25, 0.5))
    assert (found.pairs, found.prompts) == (1, 2)


def test_resampling_draws_runs_and_then_their_prompts():
    """0 0 1 1: 0 and 1 come with 1/16 each, within the middle 95%. Of two runs of one prompt, 0 and 1: a quarter each
    are 0 and 1."""
    assert resample_mean([np.array([0.0, 0.0, 1.0, 1.0])]) == (0.5, 0.0, 1.0)
    assert resample_mean([np.array([0.0]), np.array([1.0]), np.array([])]) == (0.5, 0.0, 1.0)
    assert resample_mean([np.array([])]) is None
    low_spread = resample_mean([np.linspace(0, 1, 1001)])
    assert low_spread.high - low_spread.low == pytest.approx(2 * 1.96 * 0.2887 / 1001**0.5, rel=0.1)


def test_an_interval_holds_as_often_as_it_says():
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        low_high = resample_mean([draw.normal(0.2, 1, size=60)], rounds=400)
        held += low_high.low <= 0.2 <= low_high.high
    assert 180 <= held <= 198  # 95% of 200 are 190


def test_runs_of_one_config_are_one_variant_and_the_same_run_twice_is_refused():
    runs = [plant_run("a", seed=1), plant_run("b"), plant_run("a", seed=0)]
    assert [(g.name, [r.seed for r in g.runs]) for g in group_runs(runs)] == [
        ("a", [0, 1]),
        ("b", [0]),
    ]
    with pytest.raises(ValueError, match=r"same options and run.seed=1"):
        group_runs([*runs, plant_run("a", seed=1)])


@pytest.mark.parametrize(
    ("options", "facts", "said"),
    [
        ({"rewards.verifier": "math"}, {}, "the verifier differs: rewards.verifier is 'math'"),
        ({}, {"model.path (chat template)": "two"}, "the template differs: model.path (chat"),
        ({}, {"data.path (prompts)": "two"}, "the data differs: data.path (prompts) is two"),
        ({}, {"model.path (weights)": "two"}, "the model differs: model.path (weights) is two"),
        ({}, {"packages (sglang)": "0.6"}, "the engine differs: packages (sglang) is 0.6, not 0.5"),
        ({"actor.learning_rate": 1e-3, "data.path": "elsewhere"}, {}, ""),
    ],
)
def test_what_decides_what_an_accuracy_means_is_warned_of(options, facts, said):
    same = {
        "model.path (chat template)": "1",
        "data.path (prompts)": "1",
        "model.path (weights)": "1",
    }
    first = plant_run("a", facts=same, options={"rewards.verifier": "last_number"})
    other = plant_run(
        "b", facts={**same, **facts}, options={"rewards.verifier": "last_number", **options}
    )
    groups = [RunGroup(name=run.name, runs=(run,)) for run in (first, other)]
    found = describe_differences(groups)
    assert len(found) == bool(said)
    assert not said or (found[0].startswith(said) and found[0].endswith("in b, beside a"))
    if "actor.learning_rate" in options:
        assert ("actor.learning_rate", ["None", "0.001"]) in describe_options(groups)


def test_facts_that_are_not_known_are_told():
    groups = [RunGroup(name=n, runs=(plant_run(n),)) for n in "ab"]
    object.__setattr__(groups[1].runs[0], "facts", {})
    assert "b tell nothing of what their files held" in describe_differences(groups)[0]


@pytest.mark.parametrize("option", [{"cancel_solved": True}, {"stage_rule": "balance"}])
def test_training_is_not_compared_where_a_ledger_does_not_tell_first_stages(tmp_path, option):
    folders = [
        PlantedRun(skill=lambda done: 0.5, config=config, recorded=0, checkpoints=()).write(folder)
        for folder, config in ((tmp_path / "a", {}), (tmp_path / "b", {"rollout": option}))
    ]
    groups = group_runs([read_compared_run(folder) for folder in folders])
    assert align_variants(groups, "steps").variants[1].training_minus_first is None
    [said] = [line for line in describe_differences(groups) if "training pass rate" in line]
    assert said.startswith(
        "the training pass rate of b is left out, for it was sampled with rollout."
    )


def write(folder, name, skill, seed) -> str:
    config = {"algorithm": {"name": name}, "run": {"seed": seed, "name": f"{name}-s{seed}"}}
    run = PlantedRun(skill=skill, config=config, recorded=0, checkpoints=())
    return str(run.write(folder / f"{name}-s{seed}"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("compare")
    return [
        write(folder, name, lambda done, end=end, seed=seed: 0.2 + (end + 0.05 * seed) * done, seed)
        for name, end in (("ar3po", 0.6), ("grpo", 0.4))
        for seed in (0, 1)
    ]


def test_the_command_writes_a_page_and_prints_a_table(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", *runs, "--out", str(page)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "0, 1" in said and "less ar3po's at 1,600" in said and "-0.200 (-0.200 to -0.200)" in said
    )
    text = page.read_text()
    assert "<title>ar3po against grpo</title>" in text
    for section in ("accuracy", "table"):
        assert f'<section id="{section}">' in text
    assert "<th scope=row>seeds</th><td>0, 1</td><td>0, 1</td></tr>" in text
    assert "Content-Security-Policy" in text and "nothing of what their files held" in text


def test_figures_for_scripts_are_those_of_the_table(runs, capsys):
    assert main(["compare", *runs, "--json", "--by", "steps"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [v["seeds"] for v in found["variants"]] == [[0, 1], [0, 1]]
    trained = found["variants"][1]["training_minus_first"]
    assert trained["low"] < trained["mean"] < trained["high"] < 0 and trained["pairs"] == 2


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (slice(0, 1), "needs two runs or more"),
        (slice(0, 2), "differ in their seed alone"),
    ],
)
def test_nothing_to_compare_is_told(runs, chosen, said, capsys):
    assert main(["compare", *runs[chosen], "--text"]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(runs, tmp_path, capsys):
    assert main(["compare", runs[0], str(tmp_path)]) == 2
    assert "holds no resolved_config.yaml" in capsys.readouterr().err


def test_a_run_is_read_with_its_seed_and_without_what_does_not_decide(runs):
    run = read_compared_run(Path(runs[1]))
    assert (run.name, run.seed, run.facts) == ("ar3po-s1", 1, {})
    assert "run.name" not in run.options and "checkpoint.keep_last" not in run.options
    assert run.options["algorithm.name"] == "ar3po" and len(run.visits) == 200

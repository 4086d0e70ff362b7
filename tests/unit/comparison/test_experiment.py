from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ar3po.comparison.experiment import (
    Experiment,
    from_command_line,
    from_file,
    is_experiment_file,
    known_variant,
    variant_named,
)
from megatron_ar3po.config.load import load_config

ROOT = Path(__file__).parents[3]
ABLATIONS = ("ar3po", "adaptive_only", "reuse_only", "recompute")
CONFIG = ROOT / "examples/tiny_sum/config.yaml"


def config_of(name: str):
    return load_config([CONFIG], variant_named(name).words)


@pytest.mark.parametrize(
    ("name", "stages", "reuse", "dynamic"),
    [
        ("ar3po", (4, 4), "recompute", False),
        ("grpo", (8,), None, False),
        ("grpo_k", (4,), None, False),
        ("dapo", (8,), None, True),
        ("history", (1,), None, False),
        ("history_2", (2,), None, False),
        ("history_stages", (4, 4), None, False),
        ("adaptive_only", (4, 4), None, False),
        ("reuse_only", (8,), "recompute", False),
        ("detach", (4, 4), "detach", False),
        ("stored", (4, 4), "stored", False),
        ("stages_3", (4, 4, 4), "recompute", False),
        ("k_2", (2, 2), "recompute", False),
    ],
)
def test_a_name_stands_for_a_config(name, stages, reuse, dynamic) -> None:
    config = config_of(name)
    assert config.rollout.stage_sizes == stages
    assert (config.reuse.option if config.reuse.enabled else None) == reuse
    assert config.algorithm.dynamic_sampling is dynamic
    assert (config.algorithm.advantage == "history") == name.startswith("history")


def test_pairs_of_runs_share_the_seed_and_everything_the_variant_does_not_say() -> None:
    experiment = from_command_line(CONFIG, "ar3po,grpo", 2, ["run.num_steps=3"])
    ar3po, grpo = (experiment.words_of(v, 1) for v in experiment.variants)
    assert [w for w in ar3po if w not in grpo] == ["algorithm.name=ar3po"]
    assert "run.seed=1" in ar3po and "run.seed=1" in grpo
    assert experiment.seeds == (0, 1)


WITHOUT_WARMUP = ["actor.lr_warmup_steps=0"]


def test_a_budget_of_responses_leaves_steps_enough_for_the_cheapest_ones() -> None:
    """5,000 responses at 16 x 4 or more a step: at most 79 steps."""
    experiment = from_command_line(CONFIG, "ar3po", 1, WITHOUT_WARMUP, responses=5000)
    assert "run.num_steps=79" in experiment.words_of(experiment.variants[0], 0)


def test_with_early_cancel_a_prompt_may_cost_one_response_a_step() -> None:
    """5,000 responses at 16 or more a step: at most 313 steps."""
    common = [*WITHOUT_WARMUP, "rollout.cancel_solved=true"]
    experiment = from_command_line(CONFIG, "ar3po", 1, common, responses=5000)
    assert "run.num_steps=313" in experiment.words_of(experiment.variants[0], 0)


def test_with_a_budget_every_variant_is_evaluated_at_the_same_counts_of_responses() -> None:
    """5,000 in 4 parts: at 1,250, 2,500, 3,750 and 5,000, whatever a step of the variant costs."""
    experiment = from_command_line(
        CONFIG, "ar3po,grpo,dapo", 1, WITHOUT_WARMUP, responses=5000, evaluations=4
    )
    for variant in experiment.variants:
        evaluation = experiment.config_of(variant, 0).evaluation
        assert (evaluation.every_responses, evaluation.every_steps) == (1250, 0)


FOUR = ("ar3po", "grpo", "grpo_k", "dapo")


@pytest.mark.parametrize(
    ("name", "variants", "responses", "target"),
    [
        ("tiny_sum/comparison", FOUR, 2000, 0.45),
        ("tiny_sum_core/comparison", FOUR, 4000, 0.40),
        ("tiny_sum_core/ablations", (*ABLATIONS, *FOUR[1:]), 4000, 0.40),
    ],
)
def test_the_shipped_experiments_are_those_of_the_page(name, variants, responses, target) -> None:
    path = ROOT / "examples" / f"{name}.yaml"
    experiment = from_file(path)
    assert is_experiment_file(path) and not is_experiment_file(CONFIG)
    assert tuple(v.name for v in experiment.variants) == variants
    assert (experiment.responses, experiment.target) == (responses, target)
    assert experiment.seeds == (0, 1, 2, 3, 4)


def test_the_first_look_at_one_response_a_prompt_spends_as_much_in_each_step_of_every_variant() -> (
    None
):
    experiment = from_file(ROOT / "examples/tiny_sum/history.yaml")
    rollouts = {v.name: experiment.config_of(v, 0).rollout for v in experiment.variants}
    assert {n: r.stage_sizes for n, r in rollouts.items()} == {
        **{"grpo_k": (4,), "history": (1,), "history_2": (2,)}
    }
    assert {r.prompts_per_step * sum(r.stage_sizes) for r in rollouts.values()} == {24}


def test_each_method_is_tuned_with_the_same_effort_on_a_seed_of_its_own() -> None:
    experiment = from_file(ROOT / "examples/tiny_sum_core/tuning.yaml")
    tried = [v.name.rsplit("_", 2)[0] for v in experiment.variants]
    assert {name: tried.count(name) for name in FOUR} == dict.fromkeys(FOUR, 6)
    assert experiment.seeds == (100,)
    for variant in experiment.variants:
        _, rate, prompts = variant.name.rsplit("_", 2)
        words = experiment.words_of(variant, 100)
        assert f"actor.learning_rate={rate}" in words
        assert f"rollout.prompts_per_step={prompts}" in words


def test_a_variant_means_the_same_in_both_experiments_of_the_harder_task() -> None:
    """Their finished runs are shared: one --out."""
    one, other = (
        from_file(ROOT / f"examples/tiny_sum_core/{name}.yaml")
        for name in ("comparison", "ablations")
    )
    for variant in one.variants:
        [same] = [v for v in other.variants if v.name == variant.name]
        assert one.words_of(variant, 3) == other.words_of(same, 3)


def write_experiment(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(f"config: {CONFIG}\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {mine: []}", "algorithm 'mine' is not known"),
        ("variants: {ar3po: [reuse.enabled]}", "must be a list of section.option=value"),
        ("variants: [ar3po]", "must map a name"),
        ("variants: {ar3po: [rollout.stages=2]}", "variant ar3po: unknown option rollout.stages"),
        ("variants: {ar3po: []}\nbudget: 3", "unknown key 'budget'"),
        ("variants: {ar3po: []}\nseeds: [1, 1]", "each once"),
        ("variants: {ar3po: []}\nresponses: 100", "actor.lr_warmup_steps=10 counts updates"),
        ("variants: {ar3po: [actor.lr_decay=cosine]}", "actor.lr_decay=cosine counts updates"),
        (
            "variants: {ar3po: [evaluation.every_steps=6]}\nresponses: 100\n"
            "common: [actor.lr_warmup_steps=0]",
            "evaluations=5 equal parts of the budget",
        ),
        ("variants: {ar3po: []}\nevaluations: 0", "evaluations=0 at least 1"),
        ("variants: {ar3po: []}\nseeds: two", "seeds='two' must be a whole number"),
        ("variants: {ar3po: []}\nseeds: [1, x]", r"seeds=\[1, 'x'\] must be whole numbers"),
        ("variants: {ar3po: []}\nresponses: 1.5", "responses=1.5 must be a whole number"),
        ("variants: {ar3po: []}\nevaluations: true", "evaluations=True must be a whole number"),
        ("variants: {ar3po: []}\ntarget: high", "target='high' must be a number"),
        ("variants: {ar3po: []}\ntimeout_s: .inf", "timeout_s=inf must be seconds above 0"),
        ("variants: {ar3po: []}\ntarget: .nan", "target=nan a pass@1 of 0 to 1"),
        ("variants: {ar3po: [", "experiment.yaml is not readable YAML"),
        ("variants: {ar3po: [evaluation.path='']}", "evaluation.path is empty"),
        ("variants: {a/b: [algorithm.name=grpo]}", "names a folder"),
    ],
)
def test_what_an_experiment_gets_wrong_is_said_before_the_first_run(
    tmp_path, text, message
) -> None:
    with pytest.raises(ValueError, match=message):
        from_file(write_experiment(tmp_path, text))


def test_a_budget_may_be_written_as_a_power_of_ten(tmp_path) -> None:
    text = "variants: {ar3po: []}\nresponses: 1e4\ncommon: [actor.lr_warmup_steps=0]\ntarget: 1"
    experiment = from_file(write_experiment(tmp_path, text))
    assert (experiment.responses, experiment.target) == (10_000, 1.0)


def test_a_folder_is_no_experiment(tmp_path) -> None:
    with pytest.raises(ValueError, match="is a folder; name a YAML file in it"):
        is_experiment_file(tmp_path)


def test_an_algorithm_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each named once"):
        from_command_line(CONFIG, "ar3po,ar3po", 1, [])


def test_unknown_names_are_not_guessed() -> None:
    assert known_variant("grpo_") is None
    assert isinstance(from_command_line(CONFIG, "dapo", 1, []), Experiment)

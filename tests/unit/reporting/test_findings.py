"""The five sentences, on runs whose story is known. Each step has 10 prompts of 8 responses of 10 tokens and takes 2
s; 20 steps are 1,600 responses. 200 held-out prompts: at 0.2 and at 0.8 the standard error is sqrt(0.16 / 199), 0.0284.
"""

import doctest

import pytest
from fakes.planted_run import PlantedRun, collapsing, learning

from megatron_ar3po.reporting import findings
from megatron_ar3po.reporting.findings import find_all, responses_by_use
from megatron_ar3po.reporting.run_data import RunData, read_run


@pytest.fixture
def plant(tmp_path):
    def write(**options) -> RunData:
        return read_run(PlantedRun(**options).write(tmp_path / "run"))

    return write


def failing_verdict(is_right, draw):
    """For three responses of ten."""
    return "error" if draw.random() < 0.3 else "correct" if is_right else "incorrect"


def sentences(run: RunData) -> dict[str, tuple[str, str]]:
    return {found.key: (found.mark, found.text) for found in find_all(run)}


def test_the_examples_in_the_docstrings_are_true():
    results = doctest.testmod(findings)
    assert (results.attempted, results.failed) == (4, 0)


def test_a_run_that_learns(plant):
    """60 points, give or take 1.96 * sqrt(2) * 2.84 = 7.86, for 1,600 responses in 40 s: 26.7 responses a point,
    between 1600 / 67.86 and 1600 / 52.14."""
    said = sentences(plant(skill=learning))
    assert said["learning"] == (
        "good",
        "It learned: pass@1 on 200 held-out prompts went from 0.200 to 0.800 (by +0.600, 95% interval +0.521 to "
        "+0.679).",
    )
    assert said["cost"] == (
        "good",
        "A point of accuracy cost 27 responses (95% interval 24 to 31), 267 tokens and 0.7 s: 60.0 points for 1,600 "
        "responses until step 20.",
    )
    assert said["verifier"][0] == "good"
    assert "of 320 recorded responses no text got two verdicts" in said["verifier"][1]
    assert said["best"] == (
        "good",
        "The best evaluation came after step 20: pass@1 0.800 ± 0.056. Its checkpoint is kept: "
        "checkpoints/step_00020.",
    )


def test_a_run_that_does_not_learn(plant):
    """At 0.4 all along: sqrt(2 * 0.24 / 199) * 1.96 = 0.096 either way, so a point cost at least 1600 / 9.63 = 166."""
    said = sentences(plant(skill=lambda _: 0.4))
    assert said["learning"] == (
        "bad",
        "No sign that it learned: pass@1 on 200 held-out prompts went from 0.400 to 0.400 (by +0.000, 95% interval "
        "-0.096 to +0.096).",
    )
    assert said["cost"][0] == "bad"
    assert "for 1,600 responses and 16,000 tokens" in said["cost"][1]
    assert "so one cost at least 166" in said["cost"][1]


def test_a_run_that_collapses(plant):
    """0.2, 0.5, 0.8, 0.425, 0.05 after steps 0, 5, 10, 15, 20."""
    said = sentences(plant(skill=collapsing, checkpoints=(10, 20)))
    assert said["learning"] == (
        "bad",
        "It lost what it had: pass@1 on 200 held-out prompts was 0.800 ± 0.056 after step 10 and is 0.050 ± 0.030 "
        "after step 20 (it began at 0.200).",
    )
    assert said["best"] == (
        "good",
        "The best evaluation came after step 10: pass@1 0.800 ± 0.056; the last one, 0.050 ± 0.030 after step 20, is "
        "worse. Its checkpoint is kept: checkpoints/step_00010.",
    )
    assert "60.0 points for 800 responses until step 10" in said["cost"][1]


def test_a_run_that_gets_worse_from_its_beginning(plant):
    """By 0.13, 2.8 standard errors of the difference (0.0469): sure, and less than the 3 of a best that is lost."""
    said = sentences(plant(skill=lambda progress: 0.4 - 0.13 * progress, evaluate_every=20))
    assert said["learning"] == (
        "bad",
        "It got worse: pass@1 on 200 held-out prompts went from 0.400 to 0.270 (by -0.130, 95% interval -0.222 to "
        "-0.038).",
    )


def test_the_best_checkpoint_may_be_gone(plant):
    said = sentences(plant(skill=collapsing, checkpoints=(15, 20)))
    assert said["best"][0] == "open"
    assert said["best"][1].endswith(
        "Its checkpoint is not kept; of those that are, step_00015 was evaluated best (0.425 ± 0.069)."
    )


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (failing_verdict, "it failed for"),
        (lambda is_right, draw: "incorrect", "it called none of 1,600 responses correct"),
        (lambda is_right, draw: "correct", "it called every one of 1,600 responses correct"),
        (lambda is_right, draw: draw.choice(["correct", "incorrect"]), "both verdicts"),
        (lambda is_right, draw: "no_answer", "in 100% of the recorded responses it found no answer"),
    ],
)  # fmt: skip
def test_a_broken_verifier(plant, verdict, said):
    mark, text = sentences(plant(skill=learning, verdict=verdict))["verifier"]
    assert mark == "bad"
    assert text.startswith("The verifier does not look sane: ")
    assert said in text


def test_a_verifier_that_calls_the_ground_truth_wrong_and_nothing_right(plant):
    """Recorded: 2 groups of each of 20 steps, 320 responses, every one the ground truth itself, or empty."""
    run = plant(skill=lambda _: 0.0, text=lambda is_right: "4")
    assert (
        "it called 320 recorded responses wrong that are the ground truth"
        in sentences(run)["verifier"][1]
    )


def test_an_empty_response_that_is_called_correct(plant):
    run = plant(skill=lambda _: 1.0, text=lambda is_right: " ")
    assert "it called 320 empty responses correct" in sentences(run)["verifier"][1]


def test_where_responses_went_to_waste(plant):
    """Ten steps solved by every response, ten by none: 800 each."""
    run = plant(skill=lambda progress: float(progress <= 0.5))
    assert responses_by_use(run) == {"signal": 0, "all_correct": 800, "all_wrong": 800}
    assert sentences(run)["waste"] == (
        "bad",
        "Of 1,600 responses 100% taught nothing: 50% in groups that were all correct; 50% in groups that were all "
        "wrong (harder prompts, or fewer responses at first, would teach more).",
    )


def test_groups_of_equal_rewards_are_no_waste_where_advantages_are_relative_to_a_history(plant):
    config = {"algorithm": {"name": "history", "advantage": "history"}}
    run = plant(skill=lambda progress: float(progress <= 0.5), config=config)
    assert sentences(run)["waste"] == ("good", "Hardly any of 1,600 responses were wasted (0%).")


def test_groups_of_equal_rewards_are_waste_under_global_baseline(
    plant,
):
    run = plant(
        skill=lambda progress: float(progress <= 0.5),
        config={"algorithm": {"advantage": "global_baseline"}},
    )
    assert responses_by_use(run)["signal"] == 0


def test_every_response_of_the_ledger_has_one_use(plant):
    run = plant(skill=learning, verdict=failing_verdict)
    assert sum(responses_by_use(run).values()) == run.cost.total.responses == 1600
    assert responses_by_use(run)["ungraded"] > 0


def test_without_evaluations_the_training_responses_are_what_there_is(plant):
    said = sentences(plant(skill=lambda progress: float(progress > 0.5), evaluate_every=0))
    assert said["learning"] == (
        "open",
        "No held-out prompts were evaluated, so whether it learned cannot be said; of its training responses 0.0% were "
        "correct in the first 4 steps and 100.0% in the last 4.",
    )
    assert said["cost"][0] == "open"
    assert said["best"] == (
        "open",
        "No checkpoint was evaluated, so none is best; the newest is of step 20.",
    )

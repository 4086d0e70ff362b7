import pytest

from megatron_ar3po.algorithm.history import PromptHistory, chance_of_none
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.prompt_record import StageOutcome
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.rollout.token_budget import TokenBudget, share_of_cap
from megatron_ar3po.types import Prompt

PROMPT = Prompt(prompt_id="ab", token_ids=(1,), ground_truth="")
HERE = "test_stage_plans"


def row(prompt_id, *, responses, correct, tokens=10, **more):
    return {
        "kind": "prompt",
        "step": 1,
        "prompt_id": prompt_id,
        "responses": responses,
        "correct": correct,
        "response_tokens": tokens,
        "cancelled": 0,
        "cancelled_tokens": 0,
        **more,
    }


def sizes(rule, prompt=PROMPT) -> list[int]:
    """Of a prompt that is never solved."""
    found: list[int] = []
    while size := rule.next_stage_size(prompt, [StageOutcome(size, 0) for size in found]):
        found.append(size)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 4]),
        ({"num_stages": 3, "responses_per_stage": 2}, [2, 2, 2]),
        ({"stage_plan": [4, 4, 8]}, [4, 4, 8]),
    ],
)
def test_stages_have_the_sizes_of_the_config(options, expected):
    config = RolloutConfig(**options)
    rule = make_stage_rule(config, PromptHistory())
    assert sizes(rule) == expected
    assert config.max_responses_per_prompt == sum(expected)
    assert rule.next_stage_size(PROMPT, [StageOutcome(4, 1)]) == 0


def test_the_beta_estimate_forgets():
    """4 correct of 4, then 0 of 4 at decay 0.5: 2 correct and 4 wrong are left, and one of each from the prior."""
    history = PromptHistory(decay=0.5)
    history.replay([row("ab", responses=4, correct=4), row("ab", responses=4, correct=0)])
    assert history.beta("ab") == (3.0, 5.0)
    assert chance_of_none(3.0, 5.0, 1) == pytest.approx(5 / 8)
    assert chance_of_none(3.0, 5.0, 2) == pytest.approx(5 / 8 * 6 / 9)


def test_difficulty_chooses_the_first_stage():
    """budget 8, k = 4, solved with probability 0.75 or more. Never seen: 4. Beta(5, 1): 1 would do (5/6), not below 2.
    Beta(1, 5): unsolved after k is 5 / (5 + k), above 1/4 for all k up to 8: the whole budget at once.
    Beta(3, 3): 1/2, 2/7 after two, 5/28 after three."""
    history = PromptHistory()
    history.replay(
        [
            row("easy", responses=4, correct=4),
            row("hard", responses=4, correct=0),
            row("even", responses=4, correct=2),
        ]
    )
    rule = make_stage_rule(RolloutConfig(stage_rule="difficulty"), history)

    def of(prompt_id):
        return sizes(rule, Prompt(prompt_id=prompt_id, token_ids=(1,), ground_truth=""))

    assert of("never seen") == [4, 4]
    assert of("easy") == [2, 4, 2]
    assert of("hard") == [8]
    assert of("even") == [3, 4, 1]


def test_balance_goes_on_until_both_outcomes_are_there():
    """Two of two right: more. One of four wrong: enough. All right to the end of the plan: no more."""
    rule = make_stage_rule(
        RolloutConfig(stage_rule="balance", stage_plan=[2, 2, 4]), PromptHistory()
    )

    def after(*stages):
        return rule.next_stage_size(PROMPT, [StageOutcome(*stage) for stage in stages])

    assert (after(), after((2, 2)), after((2, 0))) == (2, 2, 2)
    assert after((2, 1)) == after((2, 2), (2, 1)) == after((2, 0), (2, 1)) == 0
    assert after((2, 2), (2, 2)) == 4
    assert after((2, 2), (2, 2), (4, 4)) == 0


def test_history_goes_on_where_a_success_is_likely():
    """Weight 0.5. Never seen, pooled 1/2: Beta(.25, .25), after one wrong (.25, 1.25): two more hold a right one with
    1 - 1.25/1.5 * 2.25/2.5 = 0.25. Seen 10 of 10, decay 0.5, pooled 11/12: 5 + .5 * 11/12 right, .5 / 12 wrong; after
    one wrong nearly certain. Seen 0 of 10, pooled 1/12: .5/12 right of 6.5: 0.0119."""

    def rule_after(correct, least):
        history = PromptHistory(decay=0.5)
        if correct is not None:
            history.replay([row("ab", responses=10, correct=correct)])
        config = RolloutConfig(
            stage_rule="history", stage_plan=[1, 2, 2], history_success_frac=least
        )
        return make_stage_rule(config, history)

    assert sizes(rule_after(None, 0.2499)) == [1, 2]
    assert sizes(rule_after(None, 0.2501)) == [1]
    assert sizes(rule_after(10, 0.9)) == [1, 2]
    assert sizes(rule_after(10, 0.8)) == [1, 2, 2]
    assert sizes(rule_after(0, 0.012)) == [1]
    assert sizes(rule_after(0, 0.011)) == [1, 2]
    assert rule_after(10, 0.8).next_stage_size(PROMPT, [StageOutcome(1, 1)]) == 0


def test_what_was_done_again_after_a_resume_is_learnt_once():
    history = PromptHistory()
    history.replay([row("ab", responses=4, correct=4, abandoned=True), {"kind": "intent"}])
    assert not history.is_known("ab")


def test_the_longest_likely_chain_comes_first():
    """100 tokens an answer and 4 wrong of 4, Beta(1, 5): the second of two stages of 4 comes with 5/9. Four right of
    four, Beta(5, 1): with 1/6 * 2/7 * 3/8 * 4/9 = 1/126, of which eight times is counted."""
    history = PromptHistory()
    history.replay([row("hard", responses=4, correct=0, tokens=400)])
    history.replay([row("easy", responses=4, correct=4, tokens=80)])
    assert history.likely_chain_tokens("hard", (4, 4)) == pytest.approx(100 * 2)
    # unsolved after the first stage, only the second is left
    assert history.likely_chain_tokens("hard", (4, 4), num_done=1) == pytest.approx(100)
    # the mean length, and Beta(1, 1): 1/5, counted whole
    assert history.likely_chain_tokens("new", (4, 4)) == pytest.approx(60 * 2)
    assert history.likely_chain_tokens("easy", (4, 4)) == pytest.approx(20 * (1 + 8 / 126))


def shrinking(prompt, solved_by_stage):
    return [4, 2, 1, 0][len(solved_by_stage)]


def greedy(prompt, solved_by_stage):
    return 5


def return_text(prompt, solved_by_stage):
    return "four"


def too_many(prompt, solved_by_stage, budget):
    return 1


def both_outcomes(prompt, stages, history):
    """Two at a time, and one where the prompt is known."""
    responses, correct = (sum(column) for column in zip(*stages, strict=True)) if stages else (0, 0)
    if 0 < correct < responses:
        return 0
    return 1 if history.correct else 2


def test_a_users_own_rule_sees_counts_and_the_history_and_is_asked_after_a_success_too():
    history = PromptHistory(decay=0.5)
    rule = make_stage_rule(RolloutConfig(stage_rule=f"{HERE}:both_outcomes"), history)
    assert rule.next_stage_size(PROMPT, []) == 2
    assert rule.next_stage_size(PROMPT, [StageOutcome(2, 2)]) == 2
    assert rule.next_stage_size(PROMPT, [StageOutcome(2, 2), StageOutcome(2, 1)]) == 0
    history.replay([row("ab", responses=1, correct=1)])
    assert rule.next_stage_size(PROMPT, [StageOutcome(2, 2)]) == 1


def test_a_users_own_rule_decides():
    assert sizes(
        make_stage_rule(RolloutConfig(stage_rule=f"{HERE}:shrinking"), PromptHistory())
    ) == [*(4, 2, 1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("greedy", r"asks for 5 responses after 5, more than 8 a prompt"),
        ("return_text", r"returned 'four' for stage 1 of prompt ab"),
    ],
)
def test_what_a_users_rule_answers_is_checked(name, message):
    rule = make_stage_rule(RolloutConfig(stage_rule=f"{HERE}:{name}"), PromptHistory())
    with pytest.raises(ValueError, match=message):
        sizes(rule)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{HERE}:missing", "has no function 'missing'; define it as: def missing"),
        ("no_such_module:rule", "there is no module 'no_such_module'"),
        (f"{HERE}:too_many", r"cannot take \(prompt, solved_by_stage\)"),
    ],
)
def test_a_users_rule_that_does_not_fit_is_refused_at_the_start(path, message):
    with pytest.raises(ValueError, match=message):
        make_stage_rule(RolloutConfig(stage_rule=path), PromptHistory())


def test_a_cap_holds_whatever_comes_back_but_for_first_stages():
    budget = TokenBudget(100)
    assert budget.reserve(2, 60, is_first=True)  # 120: every prompt gets its first stage
    assert not budget.reserve(1, 60)
    budget.settle(60, 20)
    budget.settle(60, 10)
    assert budget.reserve(1, 60) and not budget.reserve(1, 60)
    assert all(TokenBudget(None).reserve(8, 4096) for _ in range(100))
    nothing = TokenBudget(0)  # a share, and no lack of a cap
    assert nothing.reserve(8, 64, is_first=True) and not nothing.reserve(1, 1)


@pytest.mark.parametrize("cap", [1, 3, 7, 1000])
@pytest.mark.parametrize("dp", [1, 2, 4])
def test_the_shares_of_the_replicas_add_up_to_the_cap(cap, dp):
    """Of 6 prompts; prompt i belongs to replica i % dp."""
    shares = [share_of_cap(cap, range(rank, 6, dp), 6) for rank in range(dp)]
    assert sum(shares) == cap
    assert shares == [
        sum(share_of_cap(cap, [p], 6) for p in range(rank, 6, dp)) for rank in range(dp)
    ]
    assert share_of_cap(cap, [], 6) == 0

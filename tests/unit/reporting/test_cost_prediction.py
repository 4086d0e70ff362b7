"""What other plans would have spent, predicted and then really run."""

import doctest
from collections.abc import Iterator

import numpy as np
import pytest
from fakes.rollout_engine import FakeRolloutEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.reporting import cost_prediction
from megatron_ar3po.reporting.cost_prediction import Plan, StepShape, predict_cost
from megatron_ar3po.reporting.visits import gather_visits, stages_of
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger_rows import prompt_rows
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler
from megatron_ar3po.types import Prompt

FIXED = StepShape(prompts_per_step=16, is_dynamic=False, prompts_per_round=16, max_rounds=8)
GRPO, DAPO = Plan("grpo", (8,)), Plan("dapo", (8,))
AR3PO, FOUR_STAGES = Plan("ar3po", (4, 4)), Plan("ar3po", (2, 2, 2, 2))


def row(step: int, prompt: int, correct: int, *, responses: int = 8, **more):
    tokens = 10 * responses
    return {"kind": "prompt", "step": step, "prompt_id": str(prompt), "responses": responses,
            "response_tokens": tokens, "correct": correct, "stages": 1, **more}  # fmt: skip


def test_the_worked_examples_hold():
    assert doctest.testmod(cost_prediction).failed == 0


def test_a_prediction_worked_by_hand():
    """Two prompts, 3 and 0 of 8 correct. AR3PO(2x4): 4 + 4 x 5/70 = 4.2857 for the first; 8 for the second. Of the
    first E[X^2] = 16 + 48/14 = 19.4286 and E[X]^2 = 16 + 2 x 16/14 + 16 x 0 = 18.2857, with the estimate's own
    variance 4.2857^2 - 18.2857 = 0.0816 and the run's 1.1429: 1.96 x sqrt(1.2245) = 2.169, and half a stage more. Of
    the second nothing is open: all of 8 and more are wrong. GRPO(8) spends 16 whatever comes out."""
    visits = gather_visits([row(1, 0, 3), row(1, 1, 0)], [8])
    shape = StepShape(prompts_per_step=2, is_dynamic=False, prompts_per_round=2, max_rounds=3)
    found = predict_cost(visits, AR3PO, shape)
    assert found.low == found.high == pytest.approx(4.285714 + 8)
    assert found.interval == pytest.approx((12.285714 - 2.168836 - 2, 16), abs=1e-4)
    assert found.tokens == pytest.approx(122.85714)
    exact = predict_cost(visits, GRPO, shape)
    assert (exact.low, exact.high, *exact.interval) == (16, 16, 16, 16)


def test_dapo_goes_on_until_its_slots_are_filled():
    """One of two prompts is mixed. Two slots, rounds of two, at most three: three fewer than two of four come with
    5/16, of two with 3/4: 1 + 0.75 + 0.3125 = 2.0625 rounds of 16 responses."""
    visits = gather_visits([row(1, 0, 3), row(1, 1, 0)], [8])
    shape = StepShape(prompts_per_step=2, is_dynamic=False, prompts_per_round=2, max_rounds=3)
    found = predict_cost(visits, DAPO, shape)
    assert found.low == found.high == pytest.approx(16 * 2.0625)
    assert found.interval == (16, 48)  # of two prompts nobody knows more than the limits


def test_an_adaptive_run_bounds_what_dapo_would_have_spent():
    """AR3PO(2x4): four correct of four may be eight of eight or not."""
    rows = [row(1, 0, 4, responses=4), row(1, 1, 2, responses=8, stages=2)]
    visits = gather_visits(rows, [4, 4])
    shape = StepShape(prompts_per_step=2, is_dynamic=False, prompts_per_round=2, max_rounds=3)
    found = predict_cost(visits, DAPO, shape)
    assert (found.low, found.high) == (16, pytest.approx(16 * 2.0625))
    assert predict_cost(visits, GRPO, shape).low == 16
    own = predict_cost(visits, AR3PO, shape)
    assert own.low == own.high == 4 + 8


def test_a_dapo_run_predicts_for_as_many_prompts_as_its_steps_have_slots():
    """Four prompts drawn for two slots, half of them mixed: GRPO(8) would have had two."""
    rows = [row(1, i, correct) for i, correct in enumerate((3, 0, 8, 5))]
    shape = StepShape(prompts_per_step=2, is_dynamic=True, prompts_per_round=2, max_rounds=3)
    found = predict_cost(gather_visits(rows, [8]), GRPO, shape)
    assert (found.low, found.tokens) == (16, 160)


def test_rows_that_tell_nothing_are_left_out_and_steps_done_again_count_once():
    rows = [
        row(1, 0, 3),
        row(1, 1, 0, ungraded=8, ungraded_tokens=80),
        row(2, 0, 3, abandoned=True),
        {"kind": "server", "step": 2},
    ]
    visits = gather_visits(rows, [8])
    assert (len(visits), visits.left_out, visits.num_steps) == (1, 1, 1)
    assert stages_of(row(1, 0, 1, stages=2, ungraded=1), [4, 4]) == ()
    with pytest.raises(ValueError, match="no prompt with a verdict"):
        predict_cost(gather_visits([], [8]), GRPO, FIXED)


# Sampled with the real controller and the real samplers; an engine and a verifier of the test.


def sample_run(rates, *, stages, per_stage, is_dynamic=False, steps=8, seed=0) -> list:
    """The ledger's rows of `steps` steps of 16 prompts: a response is correct with the rate of its prompt."""
    prompts = [
        Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth=str(rate))
        for i, rate in enumerate(rates)
    ]
    source = PromptSource(prompts, seed=seed, shuffle=True)
    controller = RolloutController(
        FakeRolloutEngine(),
        FakeVerifier(lambda prompt, r: r.seed < float(prompt.ground_truth) * 2**31),
        RolloutConfig(num_stages=stages, responses_per_stage=per_stage),
        ServersConfig(),
        run_seed=seed,
        stop_token_ids=(),
        max_context_tokens=1024,
        vocab_size=64,
    )
    kind, more = FixedSampler, {}
    if is_dynamic:
        kind, more = DynamicSampler, {"max_rounds": 8, "gather_over_replicas": lambda x: [x]}
    sampler = kind(
        controller, source.next_batch, layout=ParallelLayout(), prompts_per_step=16, **more
    )
    rows = []
    for step in range(1, steps + 1):
        source.start_step()
        rows += prompt_rows(
            sampler.collect(step=step, policy_version=0), step=step, policy_version=0
        )
    controller.close()
    return rows


def test_a_grpo_run_says_what_dapo_and_ar3po_really_spend():
    """128 prompts, all of them once in 8 steps. Under other seeds DAPO and AR3PO spend what the intervals say."""
    rates = np.random.default_rng(0).beta(0.4, 0.4, 128)
    visits = gather_visits(sample_run(rates, stages=1, per_stage=8, seed=4), [8])
    for plan, run in (
        (AR3PO, sample_run(rates, stages=2, per_stage=4, seed=1)),
        (FOUR_STAGES, sample_run(rates, stages=4, per_stage=2, seed=2)),
        (DAPO, sample_run(rates, stages=1, per_stage=8, is_dynamic=True, seed=3)),
    ):
        found, spent = predict_cost(visits, plan, FIXED), sum(r["responses"] for r in run)
        assert found.interval.low <= spent <= found.interval.high, plan.name
        width = (found.interval.high - found.interval.low) / found.low
        assert width < {"dapo": 0.6, "ar3po": 0.2}[plan.algorithm], plan.name  # it says something


def test_an_ar3po_run_says_what_it_spends_itself():
    rates = np.random.default_rng(0).beta(0.4, 0.4, 128)
    rows = sample_run(rates, stages=2, per_stage=4)
    found = predict_cost(gather_visits(rows, [4, 4]), AR3PO, FIXED)
    assert found.low == found.high == sum(r["responses"] for r in rows)


# The same by numpy, for many draws.

DRAWS = 40
LEAST_COVERED = 33  # of 40 with 95% each: fewer come with a chance of 0.3%


@pytest.fixture(scope="module")
def rates() -> np.ndarray:
    return np.random.default_rng(5).beta(0.4, 0.4, 128)


def draw_prompts(draw, num: int) -> Iterator[int]:
    while True:
        yield from draw.permutation(num).tolist()


def spend(draw, rates, plan: Plan) -> int:
    order, spent = draw_prompts(draw, len(rates)), 0
    for _ in range(8):
        if plan.algorithm == "dapo":
            mixed = rounds = 0
            while rounds < 8 and mixed < 16:
                spent, rounds = spent + 128, rounds + 1
                mixed += sum(0 < draw.binomial(8, rates[next(order)]) < 8 for _ in range(16))
            continue
        for prompt in (next(order) for _ in range(16)):
            for size in plan.sizes:
                spent += size
                if draw.binomial(size, rates[prompt]):
                    break
    return spent


@pytest.mark.parametrize("plan", [AR3PO, FOUR_STAGES, DAPO], ids=lambda plan: plan.name)
def test_of_40_runs_as_many_lie_in_their_intervals_as_a_binomial_allows(plan, rates):
    draw = np.random.default_rng(11)
    covered, errors = 0, []
    for _ in range(DRAWS):
        order = draw_prompts(draw, len(rates))
        rows = [
            row(step, prompt := next(order), int(draw.binomial(8, rates[prompt])))
            for step in range(1, 9)
            for _ in range(16)
        ]
        found = predict_cost(gather_visits(rows, [8]), plan, FIXED)
        spent = spend(draw, rates, plan)
        covered += found.interval.low <= spent <= found.interval.high
        errors.append(found.low / spent - 1)
    assert covered >= LEAST_COVERED
    assert abs(np.mean(errors)) < 3 * np.std(errors) / DRAWS**0.5 + 0.01  # on the whole it is right

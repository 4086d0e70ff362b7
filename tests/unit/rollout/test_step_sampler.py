import math
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.algorithm_cases import group
from fakes.rollout_engine import FakeRolloutEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.distributed.collectives import PeerError
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.records import Mean, Sum, merge_records
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler
from megatron_ar3po.servers.counters import server_books
from megatron_ar3po.types import CollectedStep, Prompt, StepPrompt
from megatron_ar3po.wiring.sampling import usage_of_all

MIXED = {
    0,
    3,
    4,
    7,
    8,
    9,
}  # positions of prompts whose first response is right and whose second is wrong


class PromptSupply:
    """Prompts 0, 1, 2, ... in batches, `total` of them in all."""

    def __init__(self, total: int) -> None:
        self.drawn, self.total, self.calls = 0, total, []

    def __call__(self, count: int) -> list[StepPrompt]:
        self.calls.append(count)
        positions = range(self.drawn, min(self.drawn + count, self.total))
        self.drawn += len(positions)
        return [
            StepPrompt(
                position=i,
                prompt=Prompt(
                    prompt_id=f"{i:016x}" * 2, token_ids=(1, 2), ground_truth=str(i), text=""
                ),
            )
            for i in positions
        ]


def is_correct(prompt, response) -> bool:
    return int(prompt.ground_truth) in MIXED and response.index == 0


def controller() -> RolloutController:
    config = RolloutConfig(num_stages=1, responses_per_stage=2)
    return RolloutController(
        FakeRolloutEngine(),
        FakeVerifier(is_correct),
        config,
        ServersConfig(),
        run_seed=0,
        stop_token_ids=(),
        max_context_tokens=1024,
        vocab_size=64,
    )


def dynamic(
    supply,
    *,
    max_rounds=8,
    prompts_per_round=0,
    prompts_per_step=4,
    layout=None,
    gather=None,
    collector=None,
):
    return DynamicSampler(
        collector or controller(),
        supply,
        layout=layout or ParallelLayout(),
        prompts_per_step=prompts_per_step,
        max_rounds=max_rounds,
        prompts_per_round=prompts_per_round,
        gather_over_replicas=gather or (lambda value: [value]),
    )


def test_fixed_sampler_rolls_out_one_batch():
    supply = PromptSupply(100)
    sampler = FixedSampler(controller(), supply, layout=ParallelLayout(), prompts_per_step=5)
    step = sampler.collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 1, 2, 3, 4]
    assert (step.discarded, supply.calls) == ((), [5])


def test_each_prompt_belongs_to_exactly_one_replica():
    positions = []
    for rank in range(2):
        layout = ParallelLayout(world_size=2, rank=rank)
        sampler = FixedSampler(controller(), PromptSupply(100), layout=layout, prompts_per_step=7)
        positions.append([g.position for g in sampler.collect(step=1, policy_version=0).groups])
    assert positions == [[0, 2, 4, 6], [1, 3, 5]]


def test_dynamic_sampling_draws_rounds_until_enough_groups_carry_signal():
    """Rounds of 4: signal at 0, 3 | 4, 7 | -> four groups after two rounds; four prompts are discarded."""
    supply = PromptSupply(100)
    step = dynamic(supply).collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 3, 4, 7]
    assert [g.position for g in step.discarded] == [1, 2, 5, 6]
    assert supply.calls == [4, 4]


def test_groups_beyond_the_step_are_discarded_and_counted():
    """Rounds of 3: signal at 0 | 3, 4 -> three after two rounds, and three discarded."""
    supply = PromptSupply(100)
    step = dynamic(supply, prompts_per_step=3).collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 3, 4]
    assert [g.position for g in step.discarded] == [1, 2, 5]
    assert supply.calls == [3, 3]


def test_over_sampling_needs_fewer_rounds_and_discards_more():
    """One round of 10 for 4: signal at 0, 3, 4, 7, 8, 9, of which four stay; two rounds of 4 discarded four."""
    supply = PromptSupply(100)
    step = dynamic(supply, prompts_per_round=10).collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 3, 4, 7]
    assert [g.position for g in step.discarded] == [1, 2, 5, 6, 8, 9]
    assert supply.calls == [10]


class PunishedCollector:
    """Prompt 0: two wrong answers, one punished for its length. Prompt 1: right and wrong. Prompt 2: both right, one
    punished. Prompt 3: both wrong."""

    REWARDS = ((0.0, -0.5), (1.0, 0.0), (1.0, 0.5), (0.0, 0.0))

    def collect(self, prompts, *, step, policy_version):
        return CollectedStep(
            groups=tuple(group(self.REWARDS[p.position], position=p.position) for p in prompts)
        )


@pytest.mark.parametrize(("keep_by", "kept"), [("correctness", [1]), ("reward", [0, 1, 2])])
def test_dapo_keeps_a_group_for_its_correctness_and_not_for_a_punishment(keep_by, kept):
    """DAPO, Eq. 11. A reward above 0 is a correct one here."""
    sampler = DynamicSampler(
        PunishedCollector(),
        PromptSupply(4),
        layout=ParallelLayout(),
        prompts_per_step=4,
        max_rounds=1,
        keep_by=keep_by,
        gather_over_replicas=lambda value: [value],
    )
    assert [g.position for g in sampler.collect(step=1, policy_version=0).groups] == kept


def test_at_the_bound_of_rounds_the_step_trains_on_what_it_has():
    supply = PromptSupply(100)
    step = dynamic(supply, max_rounds=1).collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 3]
    assert supply.calls == [4]


def test_when_the_prompts_run_out_the_step_trains_on_what_it_has():
    supply = PromptSupply(6)
    step = dynamic(supply).collect(step=1, policy_version=0)
    assert [g.position for g in step.groups] == [0, 3, 4]
    assert supply.calls == [4, 4, 4]


def run_replicas(make_sampler, dp=2):
    """The leaders in threads, with a gather that waits for all."""
    barrier = threading.Barrier(dp)
    box: list[Any] = [None] * dp
    results: list[Any] = [None] * dp

    def leader(rank):
        def gather(value):
            box[rank] = value
            barrier.wait(10)
            values = list(box)
            barrier.wait(10)
            return values

        try:
            results[rank] = make_sampler(rank, gather).collect(step=1, policy_version=0)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=leader, args=(rank,)) for rank in range(dp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.mark.parametrize("prompts_per_step", [3, 4])
@pytest.mark.parametrize("dp", [1, 2, 4])
def test_what_a_step_of_dapo_cost_does_not_depend_on_the_number_of_replicas(dp, prompts_per_step):
    """Two rounds of 3: 12 responses for the 3 groups that are kept, 4 a slot. Two rounds of 4: 16 for 4. With four
    replicas some fill no slot, and some discard nothing."""

    def sampler(rank, gather):
        layout = ParallelLayout(world_size=dp, rank=rank)
        supply = PromptSupply(100)
        return dynamic(supply, layout=layout, gather=gather, prompts_per_step=prompts_per_step)

    steps = run_replicas(sampler, dp)
    records = merge_records(*[step.records for step in steps])
    drawn = 2 * prompts_per_step
    expected = {
        "prompts": drawn,
        "filled_slots": prompts_per_step,
        "responses_generated": 2 * drawn,
        "tokens_generated": 4 * drawn,
        "responses_discarded": 2 * drawn - 2 * prompts_per_step,
        "cost/kept_responses": 2 * prompts_per_step,
        "cost/discarded_responses": 2 * drawn - 2 * prompts_per_step,
        "responses_per_filled_slot": 4,
        "responses_per_prompt": 2,
    }
    values = {name: records[f"rollout/{name}"].value for name in expected}
    assert values == pytest.approx(expected)


def test_a_step_of_dapo_that_fills_no_slot_has_no_cost_per_slot():
    class NothingMixed:
        def collect(self, prompts, **kwargs):
            return CollectedStep(groups=(group((0.0, 0.0), position=1),))

    step = dynamic(PromptSupply(4), collector=NothingMixed(), max_rounds=1).collect(
        step=1, policy_version=0
    )
    assert math.isnan(step.records["rollout/responses_per_filled_slot"].value)


def test_two_replicas_keep_the_same_groups_as_one():
    supplies = [PromptSupply(100), PromptSupply(100)]

    def sampler(rank, gather):
        layout = ParallelLayout(world_size=2, rank=rank)
        return dynamic(supplies[rank], layout=layout, gather=gather)

    first, second = run_replicas(sampler)
    assert [g.position for g in first.groups] == [0, 4]
    assert [g.position for g in second.groups] == [3, 7]
    assert supplies[0].calls == supplies[1].calls == [4, 4]


def test_over_replicas_the_first_groups_in_the_global_order_are_kept():
    """One round of 10 for 4: signal at 0, 4, 8 here and 3, 7, 9 there. The first four of the step are 0, 3, 4 and 7,
    though the first replica's three are told first."""
    supplies = [PromptSupply(100), PromptSupply(100)]

    def sampler(rank, gather):
        layout = ParallelLayout(world_size=2, rank=rank)
        return dynamic(supplies[rank], layout=layout, gather=gather, prompts_per_round=10)

    first, second = run_replicas(sampler)
    assert [g.position for g in first.groups] == [0, 4]
    assert [g.position for g in second.groups] == [3, 7]


def test_what_was_sampled_for_discarded_groups_is_in_the_records():
    """Two rounds of 4 prompts with 2 responses of 2 tokens; each of the four groups with signal has one right."""
    records = dynamic(PromptSupply(100)).collect(step=1, policy_version=0).records
    assert records["rollout/prompts"] == Sum(8)
    assert records["rollout/responses_generated"] == Sum(16)
    assert records["rollout/tokens_generated"] == Sum(32)
    assert records["rollout/responses_discarded"] == Sum(8)
    assert records["reward/correct_frac"] == Mean(4 / 16, 16)


def test_a_failed_replica_does_not_leave_the_others_waiting():
    class Failing:
        def collect(self, prompts, **kwargs):
            raise RuntimeError("server lost")

    def sampler(rank, gather):
        layout = ParallelLayout(world_size=2, rank=rank)
        collector = Failing() if rank == 1 else None
        return dynamic(PromptSupply(100), layout=layout, gather=gather, collector=collector)

    first, second = run_replicas(sampler)
    assert isinstance(first, PeerError) and "replica 1 failed: RuntimeError: server lost" in str(
        first
    )
    assert isinstance(second, RuntimeError) and str(second) == "server lost"


@pytest.mark.parametrize("algorithm", ["ar3po", "dapo"])
def test_a_replica_whose_ledger_takes_no_rows_does_not_leave_the_others_waiting(
    tmp_path, algorithm
):
    """With servers.routing=global the leaders close their books together. The second writes its intent and, with the
    step sampled, no rows."""

    def sampler(rank, gather):
        looks = []

        def look() -> None:
            looks.append(rank)
            if rank == 1 and len(looks) == 2:
                raise OSError("no space")

        peers: Any = SimpleNamespace(gather_over_replicas=gather)
        engine: Any = SimpleNamespace(usage={}, servers=())
        ledger = Ledger(
            tmp_path / f"dp{rank}.jsonl",
            lambda: server_books(engine, usage_of_all(engine, peers)),
            check_ownership=look,
        )
        layout, supply = ParallelLayout(world_size=2, rank=rank), PromptSupply(4)
        if algorithm == "dapo":
            return DynamicSampler(
                controller(),
                supply,
                layout=layout,
                prompts_per_step=2,
                max_rounds=1,
                gather_over_replicas=gather,
                ledger=ledger,
                tell_failure=gather,
            )
        return FixedSampler(
            controller(),
            supply,
            layout=layout,
            prompts_per_step=4,
            ledger=ledger,
            tell_failure=gather,
        )

    first, second = run_replicas(sampler)
    assert isinstance(first, PeerError) and "replica 1 failed: OSError: no space" in str(first)
    assert isinstance(second, OSError)


def test_dynamic_sampling_with_one_round_and_all_signal_discards_nothing():
    step = dynamic(PromptSupply(1), prompts_per_step=1).collect(step=1, policy_version=0)
    assert len(step.groups) == 1 and step.discarded == ()


@pytest.mark.parametrize("max_rounds", [1, 2, 3])
def test_never_more_rounds_than_the_bound(max_rounds):
    supply = PromptSupply(1000)
    sampler = dynamic(supply, max_rounds=max_rounds, prompts_per_step=64)
    sampler.collect(step=1, policy_version=0)
    assert len(supply.calls) == max_rounds

"""The evaluator of a run: sets side by side, their figures apart."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from typing import cast

from fakes.algorithm_cases import group

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.evaluator import Evaluator
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse


class Replica:
    """The leader of one data-parallel replica of two."""

    def __init__(self, rank: int) -> None:
        self.layout = ParallelLayout(world_size=2, rank=rank)

    def run_on_leader(self, task):
        return task()


def prompt_set(name: str, *, first: int, count: int, samples: int) -> PromptSet:
    prompts = [
        Prompt(prompt_id=md5(f"{first + i}".encode()).hexdigest(), token_ids=(1,), ground_truth="7")
        for i in range(count)
    ]
    return PromptSet(name=name, prompts=prompts, samples=samples, sampling=SamplingParams())


def evaluate(sets: Sequence[PromptSet], rank: int) -> tuple[dict, list[PromptSet]]:
    asked: list[PromptSet] = []

    def sample(
        own: Sequence[PromptSet], *, step: int, policy_version: int
    ) -> list[list[list[ScoredResponse]]]:
        """Of the held-out prompts all are right, of the others each second sample is."""
        asked.extend(own)
        return [
            [
                list(group([float(not s.name or i % 2 == 0) for i in range(s.samples)]).responses)
                for _ in s.prompts
            ]
            for s in own
        ]

    evaluator = Evaluator(sets, sample, cast("Ranks", Replica(rank)))
    return dict(evaluator.evaluate(step=0, policy_version=0)), asked


SETS = [
    prompt_set("", first=0, count=4, samples=1),
    prompt_set("aime", first=100, count=6, samples=4),
    prompt_set("empty", first=200, count=0, samples=4),
]


def test_each_replica_samples_its_own_prompts_of_every_set_and_together_all_of_them():
    """Sets come in their order on each, also where it owns none of their prompts."""
    both = [evaluate(SETS, rank) for rank in (0, 1)]
    for number, whole in enumerate(SETS[:2]):
        owned = [p.prompt_id for _, asked in both for p in asked[number].prompts]
        assert sorted(owned) == sorted(p.prompt_id for p in whole.prompts)
    assert [[s.name for s in asked] for _, asked in both] == [["", "aime"]] * 2


def test_the_figures_of_a_set_stand_under_its_name():
    """6 prompts of 4 samples, each second one right: pass@1 1/2, pass@4 1, and the vote is a tie of 2 and 2."""
    records = [evaluate(SETS, rank)[0] for rank in (0, 1)]
    prompts = [r["eval/set/aime/prompts"].value for r in records]
    assert sum(prompts) == 6 and min(prompts) >= 1
    for found in records:
        assert found["eval/set/aime/pass_at_1"].value == 0.5
        assert found["eval/set/aime/pass_at_4"].value == 1.0
        assert "eval/set/aime/maj_at_4" in found
        assert "eval/set/empty/prompts" not in found
        assert found["eval/prompts"].value == len(SETS[0].prompts) - sum(
            r["eval/prompts"].value for r in records if r is not found
        )


def test_a_run_with_suites_alone_is_evaluated_and_one_without_anything_is_not():
    def never(*args: object, **kwargs: object) -> list[list[list[ScoredResponse]]]:
        raise AssertionError("nothing is sampled")

    ranks = cast("Ranks", Replica(0))
    assert Evaluator(SETS[1:], never, ranks).has_prompts
    assert not Evaluator([prompt_set("", first=0, count=0, samples=1)], never, ranks).has_prompts

"""Figures by source. How replicas are merged: test_records.py."""

from __future__ import annotations

from dataclasses import replace

from fakes.algorithm_cases import group, make_errored

from megatron_ar3po.observability.accuracy import mark
from megatron_ar3po.observability.source_metrics import (
    accuracy_by_source,
    evaluation_source_records,
    metric_sources,
    source_records,
)
from megatron_ar3po.observability.step_metrics import rollout_records
from megatron_ar3po.records import Mean, Sum, merge_records
from megatron_ar3po.types import ResponseGroup


def group_of(source: str, rewards: list[float], position: int = 0) -> ResponseGroup:
    made = group(rewards, position=position)
    return replace(made, prompt=replace(made.prompt, source=source))


def test_each_source_has_the_reward_of_its_own_responses() -> None:
    """sums: 1 0 and 1 1, three of four right; words: 0 0 and one for which the verifier failed."""
    failed = replace(group_of("words", [0, 0], 2), left_out=(make_errored(),))
    groups = [group_of("sums", [1, 0]), group_of("sums", [1, 1], 1), failed]
    records = source_records(groups, {"sums", "words"})
    assert records == {
        "source/sums/responses": Sum(4),
        "source/sums/reward_mean": Mean(0.75, 4),
        "source/sums/correct_frac": Mean(0.75, 4),
        "source/words/responses": Sum(3),
        "source/words/reward_mean": Mean(0.0, 2),
        "source/words/correct_frac": Mean(0.0, 2),
    }
    one, other = (source_records(part, {"sums", "words"}) for part in (groups[:1], groups[1:]))
    assert merge_records(one, other) == records  # replicas need not hold the same sources


def test_a_step_counts_discarded_groups_and_names_only_the_sources_of_the_run() -> None:
    records = rollout_records([group_of("a", [1, 0])], [group_of("a", [0, 0], 1)], {"a"})
    assert records["source/a/correct_frac"] == Mean(0.25, 4)
    assert not any("source" in name for name in rollout_records([group_of("a", [1, 0])]))


def test_which_sources_have_metrics() -> None:
    assert metric_sources(["a", "b", "a", ""]) == {"a", "b", ""}
    assert metric_sources(["", ""]) == frozenset()
    assert metric_sources(map(str, range(33))) == frozenset()


def test_an_evaluation_has_the_accuracy_of_each_source() -> None:
    """sums: 1 1 and 1 0 are 0.75, and both have one of two that is right; the two of words have no verdict."""
    groups = [group_of("sums", [1, 1]), group_of("sums", [1, 0], 1)]
    prompts = [g.prompt for g in groups] + [group_of("words", [0]).prompt]
    answers = [list(g.responses) for g in groups] + [[make_errored(), make_errored()]]
    assert evaluation_source_records(prompts, answers, {"sums", "words"}) == {
        "eval/source/sums/prompts": Sum(2),
        "eval/source/sums/pass_at_1": Mean(0.75, 2),
        "eval/source/sums/pass_at_2": Mean(1.0, 2),
        "eval/source/words/prompts": Sum(1),
    }
    assert evaluation_source_records(prompts, answers, ()) == {}
    found = accuracy_by_source(prompts, [[mark(r) for r in answer] for answer in answers])
    assert found["sums"] == {"prompts": 2, "pass_at_1": 0.75, "pass_at_1_stderr": 0.25}
    assert found["words"] == {"prompts": 1, "pass_at_1": None, "pass_at_1_stderr": None}

"""groups -> records: what one step's rollout, reuse and grading came to. Plain functions of what a replica holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import get_args

from megatron_ar3po.algorithm.response_reuse import needs_a_loan
from megatron_ar3po.algorithm.training_samples import GroupOutcome, group_outcome
from megatron_ar3po.observability.source_metrics import source_records
from megatron_ar3po.records import Max, Mean, Ratio, Records, Sum
from megatron_ar3po.types import ResponseGroup, ScoredResponse, TrainingSample
from megatron_ar3po.update_stats import LoanOutcome


def rollout_records(
    groups: Sequence[ResponseGroup],
    discarded: Sequence[ResponseGroup] = (),
    sources: Collection[str] = (),
) -> Records:
    """Of fresh groups, before anything is borrowed: what was drawn and what came of it. What it cost is
    `sampling_cost.cost_records`. `discarded` (dynamic sampling) count as prompts, not as filled slots. `sources` have
    metrics of their own besides."""
    everything = [*groups, *discarded]
    records = Records(
        {
            "rollout/prompts": Sum(len(everything)),
            "rollout/filled_slots": Sum(len(groups)),
            "rollout/responses_discarded": Sum(sum(len(g.sampled) for g in discarded)),
            "rollout/verifier_errors": Sum(sum(len(g.errored) for g in everything)),
        }
    )
    for group in everything:
        generated = sum(scored.response.num_generated for scored in group.sampled)
        records.add("rollout/responses_per_prompt", Mean(generated))
        records.add("rollout/solved_frac", Mean(float(group.is_solved)))
        for stage in range(1, group.num_stages + 1):
            records.add(f"rollout/stage_{stage}/active_prompts", Sum(1))
        for scored in group.sampled:
            response = scored.response
            records.add(f"rollout/stage_{response.stage}/responses", Sum(response.num_generated))
    for scored in (r for g in everything for r in (*g.responses, *g.errored)):
        _add_response(records, scored)
    records.add_all(source_records(everything, sources))
    return records


def slot_records(groups: Sequence[ResponseGroup], discarded: Sequence[ResponseGroup]) -> Records:
    """Of dynamic sampling: what a group that trains has cost. A ratio of sums over replicas, each of which may have
    filled no slot or discarded no group."""
    generated = sum(
        scored.response.num_generated for g in (*groups, *discarded) for scored in g.sampled
    )
    return Records({"rollout/responses_per_filled_slot": Ratio(generated, len(groups))})


def _add_response(records: Records, scored: ScoredResponse) -> None:
    """Means of rewards are those of graded responses."""
    response = scored.response
    if scored.is_graded:
        records.add("reward/mean", Mean(scored.reward))
        records.add("reward/correct_frac", Mean(float(scored.is_correct)))
    records.add("reward/ungradable_frac", Mean(float(scored.verdict.status == "ungradable")))
    records.add("reward/verifier_error_frac", Mean(float(not scored.is_graded)))
    records.add("response/length_tokens", Mean(response.num_tokens))
    records.add("response/length_max_tokens", Max(response.num_tokens))
    records.add("response/truncated_frac", Mean(float(response.finish_reason == "length")))


def group_records(groups: Sequence[ResponseGroup], samples: Sequence[TrainingSample]) -> Records:
    """Of the groups that train, after borrowing: how they ended, and how many of them give samples."""
    num_signal = len({sample.group_position for sample in samples})
    records = Records({"group/signal_groups": Sum(num_signal)})
    if groups:
        outcomes = Counter(group_outcome(group) for group in groups)
        for name in get_args(GroupOutcome):
            records.add(f"group/{name}_frac", Mean(outcomes[name] / len(groups), len(groups)))
        records.add("group/no_signal_frac", Mean(1 - num_signal / len(groups), len(groups)))
    return records


def reuse_records(
    fresh: Sequence[ResponseGroup], after: Sequence[ResponseGroup], *, step: int
) -> Records:
    """`hit_frac`: unsolved groups for which the store had an answer; `borrowed_frac`: of all groups."""
    records = Records({"reuse/borrowed_groups": Sum(sum(g.num_borrowed > 0 for g in after))})
    for before, group in zip(fresh, after, strict=True):
        records.add("reuse/borrowed_frac", Mean(float(group.num_borrowed > 0)))
        if needs_a_loan(before):
            records.add("reuse/hit_frac", Mean(float(group.num_borrowed > 0)))
        for scored in group.responses:
            if scored.origin == "reused":
                records.add("reuse/age_steps", Mean(step - scored.response.step))
    return records


def loan_records(groups: Sequence[ResponseGroup], samples: Sequence[TrainingSample]) -> Records:
    """What part of a step's teaching comes from groups that borrowed: of the groups with samples, and of the advantage
    mass, the sum of abs(advantage) over response tokens. At ratio 1 a token's gradient is its advantage times that of
    its log-prob, so the mass stands for the gradient without a second backward pass."""
    borrowers = {group.position for group in groups if group.num_borrowed}
    trained = {sample.group_position for sample in samples}
    mass, borrowed_mass = 0.0, 0.0
    for sample in samples:
        of_sample = abs(sample.advantage) * sample.num_response_tokens
        mass += of_sample
        borrowed_mass += of_sample * (sample.group_position in borrowers)
    records = Records({"reuse/idle_loans": Sum(len(borrowers - trained))})
    if trained:
        records.add(
            "reuse/signal_frac", Mean(len(borrowers & trained) / len(trained), len(trained))
        )
    if mass:
        records.add("reuse/advantage_mass_frac", Mean(borrowed_mass / mass, mass))
    return records


def drift_records(drifts: Sequence[LoanOutcome]) -> Records:
    """Of the borrowed responses that were to train: how far the policy has moved from what sampled them. Every rank
    knows all of them, so the counts are no sums over ranks."""
    distances = [loan.drift for loan in drifts if loan.drift is not None]
    if not distances:
        return Records()
    return Records(
        {
            "reuse/switched_to_detach": Max(sum(loan.option == "detach" for loan in drifts)),
            "reuse/logprob_drift_mean": Max(sum(distances) / len(distances)),
            "reuse/logprob_drift_max": Max(max(distances)),
        }
    )

"""groups -> records: what one step's rollout, reuse and grading came to. Plain functions of what a replica holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from megatron_ar3po.observability.metrics import Max, Mean, Record, Sum
from megatron_ar3po.types import LoanOutcome, ResponseGroup, ScoredResponse, TrainingSample


def rollout_records(
    groups: Sequence[ResponseGroup], discarded: Sequence[ResponseGroup] = ()
) -> dict[str, Record]:
    """Of fresh groups, before anything is borrowed. `discarded` (dynamic sampling) are cost: they count as generated
    and as prompts, not as groups that train."""
    everything = [*groups, *discarded]
    responses = [r for g in everything for r in g.responses]
    records: dict[str, Record] = {
        "rollout/prompts": Sum(len(everything)),
        "rollout/responses_generated": Sum(len(responses)),
        "rollout/tokens_generated": Sum(sum(r.response.num_tokens for r in responses)),
        "rollout/responses_discarded": Sum(sum(len(g.responses) for g in discarded)),
    }
    for group in everything:
        _merge(records, "rollout/responses_per_prompt", Mean(len(group.responses)))
        _merge(records, "rollout/solved_frac", Mean(float(group.is_solved)))
        for stage in range(1, group.num_stages + 1):
            _merge(records, f"rollout/stage_{stage}/active_prompts", Sum(1))
        for scored in group.responses:
            _merge(records, f"rollout/stage_{scored.response.stage}/responses", Sum(1))
    if discarded:
        filled = len(responses) / max(len(groups), 1)
        _merge(records, "rollout/responses_per_filled_slot", Mean(filled, max(len(groups), 1)))
    for scored in responses:
        _add_response(records, scored)
    return records


def _add_response(records: dict[str, Record], scored: ScoredResponse) -> None:
    _merge(records, "reward/mean", Mean(scored.reward))
    _merge(records, "reward/correct_frac", Mean(float(scored.is_correct)))
    _merge(records, "reward/verifier_error_frac", Mean(float(is_verifier_failure(scored))))
    _merge(records, "response/length_tokens", Mean(scored.response.num_tokens))
    _merge(records, "response/length_max_tokens", Max(scored.response.num_tokens))
    _merge(
        records, "response/truncated_frac", Mean(float(scored.response.finish_reason == "length"))
    )


def group_records(
    groups: Sequence[ResponseGroup], outcomes: Sequence[str], num_signal: int
) -> dict[str, Record]:
    """Of the groups that train, after borrowing. `outcomes`, one per group: all_correct, mixed, ..."""
    counts = Counter(outcomes)
    records: dict[str, Record] = {
        f"group/{name}_frac": Mean(counts[name] / len(groups), len(groups))
        for name in ("all_correct", "mixed", "all_wrong", "rescued")
        if groups
    }
    if groups:
        records["group/no_signal_frac"] = Mean(1 - num_signal / len(groups), len(groups))
    records["group/signal_groups"] = Sum(num_signal)
    return records


def reuse_records(
    fresh: Sequence[ResponseGroup], after: Sequence[ResponseGroup], *, step: int
) -> dict[str, Record]:
    """`hit_frac`: unsolved groups for which the store had an answer; `borrowed_frac`: of all groups."""
    records: dict[str, Record] = {
        "reuse/borrowed_groups": Sum(sum(g.num_borrowed > 0 for g in after))
    }
    for before, group in zip(fresh, after, strict=True):
        _merge(records, "reuse/borrowed_frac", Mean(float(group.num_borrowed > 0)))
        if not before.is_solved:
            _merge(records, "reuse/hit_frac", Mean(float(group.num_borrowed > 0)))
        for scored in group.responses:
            if scored.origin == "reused":
                _merge(records, "reuse/age_steps", Mean(step - scored.response.step))
    return records


def loan_records(
    groups: Sequence[ResponseGroup], samples: Sequence[TrainingSample]
) -> dict[str, Record]:
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
    records: dict[str, Record] = {"reuse/idle_loans": Sum(len(borrowers - trained))}
    if trained:
        share = len(borrowers & trained) / len(trained)
        records["reuse/signal_frac"] = Mean(share, len(trained))
    if mass:
        records["reuse/advantage_mass_frac"] = Mean(borrowed_mass / mass, mass)
    return records


def band_records(standing: Sequence[LoanOutcome]) -> dict[str, Record]:
    """Of the borrowed responses that were to train: how far the policy has moved from what sampled them. Every rank
    knows all of them, so the counts are no sums over ranks."""
    if not standing:
        return {}
    drifts = [loan.drift for loan in standing if loan.drift is not None]
    return {
        "reuse/switched_to_detach": Max(sum(loan.option == "detach" for loan in standing)),
        "reuse/logprob_drift_mean": Max(sum(drifts) / len(drifts)),
        "reuse/logprob_drift_max": Max(max(drifts)),
    }


def is_verifier_failure(scored: ScoredResponse) -> bool:
    """The verifier could not say; the response itself may have been right."""
    return scored.verdict.status in ("timeout", "error")


def refuse_a_failing_verifier(groups: Sequence[ResponseGroup], max_error_frac: float) -> None:
    """A verifier that cannot say would otherwise teach the policy that everything is wrong. `groups`: all that a step
    had graded, discarded ones included."""
    scored = [r for g in groups for r in g.responses]
    failed = [r for r in scored if is_verifier_failure(r)]
    if len(failed) > max_error_frac * len(scored):
        raise RuntimeError(
            f"the verifier failed for {len(failed)} of {len(scored)} responses of this step, more than "
            f"rewards.max_error_frac={max_error_frac}; the first reason: "
            f"{failed[0].verdict.reason or 'none given'}. Mend the "
            "verifier or the ground truths (ar3po grade shows one), then resume with run.resume=true."
        )


def _merge(records: dict[str, Record], name: str, record: Record) -> None:
    there = records.get(name)
    records[name] = record if there is None else there.merged(record)  # type: ignore[arg-type]

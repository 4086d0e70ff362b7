"""What sampling has cost: sums over the ledger's rows, each generated response in one class. Metrics, a run's totals,
`ar3po report` and comparisons are made of these sums and of no other.

A response counts once a server has begun to generate it, whatever became of it:

    kept        graded, in a group that goes on to reuse and training
    discarded   graded, in a group that dynamic sampling left out
    cancelled   cut off by early cancel (`rollout.cancel_solved`)
    aborted     cut off by its server of its own accord, and drawn again
    unusable    answered in a way that cannot be read or trusted, and drawn again
    ungraded    the verifier gave no verdict
    redone      of a step that a killed run had begun and a resumed one does again: nothing of it is used
    unlisted    of rows that are gone: known by a checkpoint's total alone

A response that a resumed run takes from the response log (`restored`) was counted when it was generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.records import Records, Sum
from megatron_ar3po.usage import LedgerError

# Of a prompt's row, beside those that were graded; `NAME` and `NAME_tokens` are its fields.
APART = ("cancelled", "aborted", "unusable", "ungraded")
CLASSES: tuple[str, ...] = ("kept", "discarded", *APART)  # of a step
CLASSES_OF_RUN: tuple[str, ...] = (*CLASSES, "redone", "unlisted")
LEDGER_RESPONSES, LEDGER_TOKENS = "ledger/responses_total", "ledger/tokens_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    responses: int = 0
    tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(responses=self.responses + other.responses, tokens=self.tokens + other.tokens)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(responses=self.responses - other.responses, tokens=self.tokens - other.tokens)


NOTHING = Spent()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingCost:
    """`classes` add up to `total`. `in_flight_max`: more that servers may have generated when the run was killed, and
    that nobody was told of. Evaluations and scored responses are no cost of training."""

    classes: Mapping[str, Spent] = field(default_factory=dict[str, Spent])
    in_flight_max: Spent = NOTHING
    evaluation: Spent = NOTHING
    num_scored: int = 0

    @property
    def total(self) -> Spent:
        return sum(self.classes.values(), NOTHING)


def generated_in(row: Mapping[str, Any]) -> Spent:
    """For one prompt in one step, whoever generated it."""
    return Spent(responses=row["responses"], tokens=row["response_tokens"])


def restored_in(row: Mapping[str, Any]) -> Spent:
    return Spent(responses=row.get("restored", 0), tokens=row.get("restored_tokens", 0))


def generated_anew_in(row: Mapping[str, Any]) -> Spent:
    """By the process that wrote the row."""
    return generated_in(row) - restored_in(row)


def apart_in(row: Mapping[str, Any]) -> dict[str, Spent]:
    """Of a prompt's responses those that nobody graded. A row of version 0.1 knows the cancelled ones alone."""
    return {
        name: Spent(responses=row.get(name, 0), tokens=row.get(f"{name}_tokens", 0))
        for name in APART
    }


def graded_in(row: Mapping[str, Any]) -> Spent:
    return generated_in(row) - sum(apart_in(row).values(), NOTHING)


def classes_of(row: Mapping[str, Any]) -> dict[str, Spent]:
    """Of a prompt's row.

    >>> row = {"responses": 5, "response_tokens": 50, "cancelled": 3, "cancelled_tokens": 12, "discarded": False}
    >>> {name: spent.responses for name, spent in classes_of(row).items() if spent.responses}
    {'cancelled': 3, 'kept': 2}
    """
    return {**apart_in(row), "discarded" if row.get("discarded") else "kept": graded_in(row)}


def cost_of(rows: Iterable[Mapping[str, Any]]) -> SamplingCost:
    """Of a whole run, from all rows of its ledger."""
    classes = dict.fromkeys(CLASSES_OF_RUN, NOTHING)
    in_flight = evaluation = NOTHING
    num_scored = 0
    for row in rows:
        kind, is_abandoned = row["kind"], bool(row.get("abandoned"))
        if kind == "prompt":
            classes["redone"] -= restored_in(row)
            for name, spent in classes_of(row).items():
                classes["redone" if is_abandoned else name] += spent
        elif kind == "cut_short":
            classes["redone"] += generated_in(row)
            in_flight += Spent(
                responses=row["in_flight_responses_max"], tokens=row["in_flight_tokens_max"]
            )
        elif kind == "unlisted":
            classes["unlisted"] += generated_in(row)
        elif kind == "evaluation":
            evaluation += generated_in(row)
        elif kind == "scoring":
            num_scored += row["responses"]
    return SamplingCost(
        classes=classes, in_flight_max=in_flight, evaluation=evaluation, num_scored=num_scored
    )


def cost_records(rows: Sequence[Mapping[str, Any]]) -> Records:
    """Of one step, from the rows of its prompts: all that was generated, the classes that make it up, and what of it
    an earlier process of the run had generated and counted."""
    spent = dict.fromkeys((*CLASSES, "restored"), NOTHING)
    generated = NOTHING
    for row in rows:
        generated += generated_in(row)
        spent["restored"] += restored_in(row)
        for name, of_class in classes_of(row).items():
            spent[name] += of_class
    records = Records(
        {
            "rollout/responses_generated": Sum(generated.responses),
            "rollout/tokens_generated": Sum(generated.tokens),
        }
    )
    for name, of_class in spent.items():
        records.add(f"rollout/cost/{name}_responses", Sum(of_class.responses))
        records.add(f"rollout/cost/{name}_tokens", Sum(of_class.tokens))
    return records


def total_records(total: Spent) -> Records:
    """What one replica's ledger has come to, for `check_totals`; no metric."""
    return Records({LEDGER_RESPONSES: Sum(total.responses), LEDGER_TOKENS: Sum(total.tokens)})


def metric_totals(cost: SamplingCost) -> dict[str, float]:
    """Where the metrics' running totals stand when a run is taken up."""
    redone = cost.classes.get("redone", NOTHING)
    return {
        "rollout/responses_total": cost.total.responses,
        "rollout/tokens_total": cost.total.tokens,
        "rollout/cost/redone_responses_total": redone.responses,
        "rollout/cost/redone_tokens_total": redone.tokens,
    }


def check_totals(reduced: Records, totals: Mapping[str, float]) -> None:
    """Takes the ledgers' totals out of a step's reduced records and holds them against the metrics' own. Raises
    LedgerError with both numbers."""
    for in_ledger, in_metrics in (
        (LEDGER_RESPONSES, "rollout/responses_total"),
        (LEDGER_TOKENS, "rollout/tokens_total"),
    ):
        there = reduced.pop(in_ledger, None)
        if there is not None and there.value != totals[in_metrics]:
            raise LedgerError(
                f"the metrics' {in_metrics} is {totals[in_metrics]:.0f}, but the rows of RUN/ledger come to "
                f"{there.value:.0f}: a step was counted twice, or left out. Keep the run's folder and report it."
            )

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
_APART_FIELDS = tuple((name, f"{name}_tokens") for name in APART)
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
    """Of a whole run, from all rows of its ledger, which may come one by one: plain numbers are added up, as a million
    rows want to be read in seconds."""
    tally = CostTally()
    for row in rows:
        tally.add(row)
    return tally.result()


class CostTally:
    """The sums of `cost_of` while the rows go by."""

    def __init__(self) -> None:
        self._sums = {name: [0, 0] for name in (*CLASSES_OF_RUN, "in_flight", "evaluation")}
        self._num_scored = 0

    def add(self, row: Mapping[str, Any]) -> None:
        kind = row["kind"]
        if kind == "prompt":
            self._add_prompt(row)
        elif kind == "cut_short":
            self._add("redone", row["responses"], row["response_tokens"])
            in_flight = row["in_flight_responses_max"], row["in_flight_tokens_max"]
            self._add("in_flight", *in_flight)
        elif kind in ("unlisted", "evaluation"):
            self._add(kind, row["responses"], row["response_tokens"])
        elif kind == "scoring":
            self._num_scored += row["responses"]

    def _add_prompt(self, row: Mapping[str, Any]) -> None:
        """As `classes_of` has it; all of an abandoned row is redone."""
        get, responses, tokens = row.get, row["responses"], row["response_tokens"]
        self._add("redone", -get("restored", 0), -get("restored_tokens", 0))
        if get("abandoned"):
            self._add("redone", responses, tokens)
            return
        for name, tokens_name in _APART_FIELDS:
            apart, apart_tokens = get(name, 0), get(tokens_name, 0)
            if apart or apart_tokens:
                self._add(name, apart, apart_tokens)
                responses, tokens = responses - apart, tokens - apart_tokens
        self._add("discarded" if get("discarded") else "kept", responses, tokens)

    def _add(self, name: str, responses: int, tokens: int) -> None:
        sums = self._sums[name]
        sums[0] += responses
        sums[1] += tokens

    def result(self) -> SamplingCost:
        spent = {name: Spent(responses=r, tokens=t) for name, (r, t) in self._sums.items()}
        in_flight, evaluation = spent.pop("in_flight"), spent.pop("evaluation")
        return SamplingCost(
            classes=spent,
            in_flight_max=in_flight,
            evaluation=evaluation,
            num_scored=self._num_scored,
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

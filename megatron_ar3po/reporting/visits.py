"""What a run's ledger says of its prompts: one visit for each prompt of each step, in arrays, so that a million of them
fit."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.algorithm.counterfactual_cost import Stages
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.sampling_cost import graded_in

Row = Mapping[str, Any]


@dataclass(slots=True)
class Visits:
    """In the order of the rows. Of each visit: its step, the number of its prompt, the number of its outcome among
    `outcomes`, and the mean length of its graded responses."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    kinds: array[int] = field(default_factory=lambda: array("q"))
    tokens: array[float] = field(default_factory=lambda: array("d"))
    outcomes: list[Stages] = field(default_factory=list[Stages])  # each that occurs, once
    prompt_ids: list[str] = field(default_factory=list[str])  # by number
    left_out: int = (
        0  # visits whose outcomes tell nothing: no verdict, or a stage that is not whole
    )
    num_steps: int = 0  # with a prompt's row, left-out ones included

    def __len__(self) -> int:
        return len(self.steps)


class VisitReader:
    """Takes down the visits among rows that pass on their way to another reader: a ledger is read once."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes`: of the stages that the run sampled in."""
        self.visits = Visits()
        self._sizes = sizes
        self._prompts: dict[str, int] = {}
        self._kinds: dict[Stages, int] = {}
        self._steps: set[int] = set()

    def pass_on(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            # Steps that a kill made the run do again count once.
            if row["kind"] == "prompt" and not row.get("abandoned"):
                self._add(row)
            yield row

    def _add(self, row: Row) -> None:
        visits = self.visits
        self._steps.add(row["step"])
        visits.num_steps = len(self._steps)
        stages = stages_of(row, self._sizes)
        if not stages:
            visits.left_out += 1
            return
        kind = self._kinds.setdefault(stages, len(self._kinds))
        if kind == len(visits.outcomes):
            visits.outcomes.append(stages)
        graded = graded_in(row)
        visits.steps.append(row["step"])
        number = self._prompts.setdefault(row["prompt_id"], len(self._prompts))
        if number == len(visits.prompt_ids):
            visits.prompt_ids.append(row["prompt_id"])
        visits.prompts.append(number)
        visits.kinds.append(kind)
        visits.tokens.append(graded.tokens / graded.responses)


def gather_visits(rows: Iterable[Row], sizes: Sequence[int]) -> Visits:
    reader = VisitReader(sizes)
    for _ in reader.pass_on(rows):
        pass
    return reader.visits


def explain_untold(rollout: RolloutConfig) -> str:
    """Why the ledger of such a run does not tell the outcomes of each stage; empty where it does.

    >>> explain_untold(RolloutConfig(stage_rule="balance"))
    'rollout.stage_rule=balance: a ledger does not say how such stages ended'
    """
    if rollout.cancel_solved:
        return "rollout.cancel_solved=true: a stage ended with its first correct response"
    if rollout.stage_rule not in ("fixed", "history"):  # both: the plan's, and on after a failure
        return (
            f"rollout.stage_rule={rollout.stage_rule}: a ledger does not say how such stages ended"
        )
    return ""


def stages_of(row: Row, sizes: Sequence[int]) -> Stages:
    """(graded, correct) of each stage of a prompt's row; nothing where they cannot be told.

    >>> row = {"responses": 8, "response_tokens": 80, "correct": 3, "stages": 2}
    >>> stages_of(row, [4, 4]), stages_of({**row, "stages": 1}, [8])
    (((4, 0), (4, 3)), ((8, 3),))
    """
    graded = graded_in(row).responses
    before = tuple((size, 0) for size in sizes[: row["stages"] - 1])
    last = graded - sum(size for size, _ in before)
    is_whole = not before or not row.get("ungraded")
    if last <= 0 or row["correct"] > last or not is_whole:
        return ()
    return (*before, (last, row["correct"]))

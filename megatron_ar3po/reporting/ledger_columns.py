"""A ledger of any length as columns of numbers: a million rows are 74 MB of arrays, read once and one by one."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from megatron_ar3po.sampling_cost import APART

OUTCOMES = (
    "all_correct",
    "mixed",
    "rescued",
    "all_wrong",
    "truncated",
    "verifier_error",
    "cancelled",
)
_NUMBER_OF_OUTCOME = {name: number for number, name in enumerate(OUTCOMES)}
_RESCUED = OUTCOMES.index("rescued")
_NUMBERS = (
    "step",
    "prompt",
    "responses",
    "graded",
    "correct",
    "tokens",
    "stages",
    "truncated",
    "ungraded",
)


@dataclass
class LedgerColumns:
    """Rows of prompts, one entry a prompt and step; what a resume did again is left out."""

    prompt_ids: list[str] = field(default_factory=list)  # `prompt` is an index of these
    sources: list[str] = field(default_factory=list)  # of each of them
    _index: dict[str, int] = field(default_factory=dict)
    _rows: array[int] = field(
        default_factory=lambda: array("q")
    )  # `_NUMBERS` of one row after another
    _outcomes: array[int] = field(default_factory=lambda: array("b"))
    _discarded: array[int] = field(default_factory=lambda: array("b"))
    _positions: dict[int, int] = field(default_factory=dict)  # of the step that is being read
    _step: int = -1

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises KeyError or TypeError for a row that is of another make; nothing of it is kept then."""
        if row.get("abandoned"):
            return
        if row["kind"] == "prompt":
            self._add_prompt(row)
        elif row["kind"] == "rescued" and row["step"] == self._step:
            for position in row["positions"]:
                if position in self._positions:
                    self._outcomes[self._positions[position]] = _RESCUED

    def _add_prompt(self, row: Mapping[str, Any]) -> None:
        get = row.get
        step, position, responses = int(row["step"]), int(row["position"]), row["responses"]
        outcome, prompt_id = _NUMBER_OF_OUTCOME[row["outcome"]], row["prompt_id"]
        correct, tokens = row["correct"], row["response_tokens"]
        graded = responses
        for name in APART:
            graded -= get(name, 0)
        stages, truncated = get("stages", 0), get("truncated", 0)
        numbers = (responses, graded, correct, tokens, stages, truncated, get("ungraded", 0))
        numbers = array("q", numbers)  # whole, or refused
        prompt = self._index.get(prompt_id)
        if prompt is None:
            prompt = self._index_of(str(prompt_id), str(get("source", "")))
        if step != self._step:
            self._step = step
            self._positions.clear()
        self._positions[position] = len(self._outcomes)
        self._rows.extend((step, prompt))
        self._rows.extend(numbers)
        self._outcomes.append(outcome)
        self._discarded.append(1 if get("discarded") else 0)

    def _index_of(self, prompt_id: str, source: str) -> int:
        there = self._index.get(prompt_id)
        if there is None:
            there = self._index[prompt_id] = len(self.prompt_ids)
            self.prompt_ids.append(prompt_id)
            self.sources.append(source)
        return there

    def __len__(self) -> int:
        return len(self._outcomes)

    def __getitem__(self, name: str) -> np.ndarray:
        """[rows] int64, one of `_NUMBERS`; asked for when all rows are there."""
        return self._table[_NUMBERS.index(name)]

    @cached_property
    def _table(self) -> np.ndarray:
        """[numbers, rows] int64"""
        rows = np.array(self._rows, np.int64).reshape(-1, len(_NUMBERS))
        return np.ascontiguousarray(rows.T)

    @cached_property
    def outcome(self) -> np.ndarray:
        """[rows] index of `OUTCOMES`; asked for when all rows are there."""
        return np.frombuffer(self._outcomes, np.int8) if len(self) else np.zeros(0, np.int8)

    @cached_property
    def is_discarded(self) -> np.ndarray:
        """[rows] bool"""
        return np.frombuffer(self._discarded, np.int8) > 0 if len(self) else np.zeros(0, bool)

    @cached_property
    def solve_rates(self) -> np.ndarray:
        """[prompts] float64, correct of graded responses over the whole run; NaN where none was graded."""
        count = len(self.prompt_ids)
        graded = np.bincount(self["prompt"], self["graded"], count)
        correct = np.bincount(self["prompt"], self["correct"], count)
        return np.divide(correct, graded, out=np.full(count, np.nan), where=graded > 0)

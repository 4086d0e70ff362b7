"""A ledger of any length as columns of numbers: a million rows are 30 MB of arrays, read once and one by one."""

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
_RESCUED = OUTCOMES.index("rescued")
_NUMBERS = ("step", "prompt", "responses", "graded", "correct", "tokens", "stages", "truncated")


@dataclass
class LedgerColumns:
    """Rows of prompts, one entry a prompt and step; what a resume did again is left out."""

    prompt_ids: list[str] = field(default_factory=list)  # `prompt` is an index of these
    sources: list[str] = field(default_factory=list)  # of each of them
    _index: dict[str, int] = field(default_factory=dict)
    _numbers: dict[str, array[int]] = field(
        default_factory=lambda: {name: array("q") for name in _NUMBERS}
    )
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
        step, responses = int(row["step"]), int(row["responses"])
        apart = sum(row.get(name, 0) for name in APART)
        stages, truncated = int(row.get("stages", 0)), int(row.get("truncated", 0))
        correct, tokens = int(row["correct"]), int(row["response_tokens"])
        outcome, position = OUTCOMES.index(row["outcome"]), int(row["position"])
        prompt = self._index_of(str(row["prompt_id"]), str(row.get("source", "")))
        if step != self._step:
            self._step = step
            self._positions.clear()
        self._positions[position] = len(self._outcomes)
        values = (step, prompt, responses, responses - apart, correct, tokens, stages, truncated)
        for name, value in zip(_NUMBERS, values, strict=True):
            self._numbers[name].append(value)
        self._outcomes.append(outcome)
        self._discarded.append(bool(row.get("discarded")))

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
        """[rows] int64, one of `step`, `prompt`, `responses`, `graded`, `correct`, `tokens`, `stages`, `truncated`."""
        return np.frombuffer(self._numbers[name], np.int64) if len(self) else np.zeros(0, np.int64)

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

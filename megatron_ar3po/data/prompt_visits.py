"""`PromptVisits`: what every prompt of the run has shown, and how often it was visited, in a few arrays.

It is a function of the ledger's rows: each replica learns the outcomes of all of them after every step, and a resumed
run replays the rows up to its checkpoint (`replay`), so it is the same at any layout. Counts of correct and wrong
responses are multiplied by the decay at each visit; a visit whose responses all failed is counted as a visit and
teaches nothing else. 28 bytes a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np

from megatron_ar3po.algorithm.history import outcome_in
from megatron_ar3po.algorithm.prompt_selection import PromptCounts
from megatron_ar3po.data.prompt_ids import PromptIds
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.types import Prompt


class PromptVisits:
    def __init__(self, prompts: Sequence[Prompt], *, decay: float) -> None:
        names = PromptIds(prompts).in_order()
        keys = np.fromiter((_key_of(name) for name in names), np.uint64, len(prompts))
        order = np.argsort(keys, kind="stable")
        self._prompts, self._rows = prompts, order.astype(np.uint32)
        self._keys = keys[order]
        assert (self._keys[1:] != self._keys[:-1]).all(), "two prompts share a key"
        self._decay = np.float32(decay)
        self._step = 0
        self._correct = np.zeros(len(prompts), np.float32)
        self._wrong = np.zeros(len(prompts), np.float32)
        self._last_step = np.zeros(len(prompts), np.int32)
        self._visits = np.zeros(len(prompts), np.int32)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def counts(self) -> PromptCounts:
        """As of now; a view that changes with the next step."""
        return PromptCounts(
            step=self._step,
            keys=self._keys,
            correct=self._correct,
            wrong=self._wrong,
            last_step=self._last_step,
            visits=self._visits,
        )

    @property
    def num_bytes(self) -> int:
        arrays = (self._keys, self._rows, self._correct, self._wrong, self._last_step, self._visits)
        return sum(array.nbytes for array in arrays)

    def prompt_at(self, index: int) -> Prompt:
        return self._prompts[int(self._rows[index])]

    def index_of(self, prompt_id: str) -> int | None:
        """None for a prompt that the run has no more."""
        key = np.uint64(_key_of(prompt_id))
        index = int(np.searchsorted(self._keys, key))
        return index if index < len(self) and self._keys[index] == key else None

    def learn(self, step: int, outcomes: Iterable[PromptOutcome]) -> None:
        """After a step's rollout: the outcomes of all replicas."""
        self._step = step
        for outcome in outcomes:
            index = self.index_of(outcome.prompt_id)
            if index is None:
                continue
            self._visits[index] += 1
            self._last_step[index] = step
            if outcome.responses:
                wrong = outcome.responses - outcome.correct
                self._correct[index] = self._decay * self._correct[index] + outcome.correct
                self._wrong[index] = self._decay * self._wrong[index] + wrong

    def replay(self, ledger_rows: Iterable[Mapping[str, Any]]) -> None:
        """The ledger's rows up to the step a run is resumed from, of all replicas, by step."""
        rows = [r for r in ledger_rows if r.get("kind") == "prompt" and not r.get("abandoned")]
        for step, of_step in groupby(rows, key=lambda row: row["step"]):
            self.learn(step, map(outcome_in, of_step))


def _key_of(prompt_id: str) -> int:
    return int.from_bytes(blake2b(prompt_id.encode(), digest_size=8).digest(), "big")

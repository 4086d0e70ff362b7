"""Which prompts each step trains on: one global order that no rank and no layout changes.

The order of an epoch is a pure function of (seed, epoch, prompt ids): prompts sorted by a hash of
the three. So every rank computes it alone, a reordered file trains the same, and a cursor of a few
numbers is enough to go on.

Promises:
- killed after any step and resumed with its cursor, the run draws the same next batch;
- positions count 0, 1, 2, ... through a step, over all of its batches (dynamic sampling draws
  several);
- a step never holds a prompt twice. Where an epoch ends inside a step, prompts of the next epoch
  that the step already holds are put off: they come first in the following step;
- of a mixture each file has epochs of its own, and whichever is owed most by its share comes next
  (two files are always within one draw of it). Where a step has drawn all of a file's prompts the
  others give in its place, and it makes up for it in later steps.

Example, three prompts a, b, c, two a step: the orders "b c a" and "a c b" give the steps (b c),
(a c), (a b). In the second step epoch 0 ended with a; epoch 1 began with a, which was put off, then
gave c. The third step starts with the a that was put off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from megatron_ar3po.data.prompt_ids import Array, PromptIds, order_by_hash
from megatron_ar3po.records import Records
from megatron_ar3po.types import Prompt, StepPrompt

# What the options and files of a run tell has been compared before (run/resume_comparison.py).
_OTHER_PROMPTS = (
    "the prompts or their order are not those of the checkpoint, and no option or file that the run's folder tells of "
    "explains it: the tokenizer's library is another, or, for a run that has no run_facts.json, the contents of "
    "data.path or model.path, the verifier's version, the date that a chat template writes, or tolerances of single "
    "prompts (field error), which are part of a prompt's id since 0.2; resume with what the run started with, start a "
    "new run (run.resume=false and another run.dir), or go on with these prompts, from a new epoch on, with "
    "run.allow_changed=[data.path]."
)


class Part(NamedTuple):
    """The prompts of one file of a mixture: which rows they are, and their share beside the others'."""

    rows: range
    weight: float = 1.0


class PromptSource:
    """`start_step`, then `next_batch` once or more. Every rank holds one and draws the same. `parts` of a mixture cover
    the prompts; without them they are one."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        shuffle: bool,
        parts: Sequence[Part] = (),
    ) -> None:
        self._ids = PromptIds(prompts)
        repeated = self._ids.find_repeated()
        assert len(prompts) and not repeated, (
            f"prompts must be there, each once; repeated: {repeated[:3]}"
        )
        self._prompts = prompts
        parts = [part for part in parts if len(part.rows)] or [Part(range(len(prompts)))]
        total = sum(part.weight for part in parts)
        self._weights = [part.weight / total for part in parts]
        self._parts = [_Epochs(self._ids, part.rows, seed=seed, shuffle=shuffle) for part in parts]
        self._drawn = [0] * len(parts)  # of each part, since the first step
        self._fingerprint = self._compute_fingerprint()
        self.start_step()

    def __len__(self) -> int:
        return len(self._prompts)

    def start_step(self) -> None:
        """Positions start at 0 again, and every prompt may be drawn again."""
        self._in_step: dict[int, None] = {}
        self._of_step = [0] * len(self._parts)  # of each part

    def check_batch(self, num_prompts: int) -> None:
        """Raises ValueError when no step could ever hold so many; for the start of a run."""
        if num_prompts > len(self):
            raise ValueError(
                f"rollout.prompts_per_step={num_prompts} is more than the {len(self)} prompts of "
                "data.path; lower it or add prompts: a step never holds a prompt twice."
            )

    def next_batch(self, num_prompts: int) -> list[StepPrompt]:
        """The next prompts of this step; fewer than asked for (perhaps none) when the step has
        drawn every prompt."""
        self.check_batch(num_prompts)
        first = len(self._in_step)
        for _ in range(min(num_prompts, len(self) - first)):
            self._in_step[self._draw()] = None
        return self._positioned_from(first)

    def add(self, prompt_ids: Sequence[str]) -> list[StepPrompt]:
        """Prompts that were chosen otherwise join the step, out of the epoch's order: where that comes to one of them
        within the step, it is put off."""
        first = len(self._in_step)
        for prompt_id, index in zip(prompt_ids, self._ids.indices_of(prompt_ids), strict=True):
            assert index not in self._in_step, f"the step holds {prompt_id} already"
            self._in_step[index] = None
            self._of_step[self._part_of(index)] += 1
        return self._positioned_from(first)

    @property
    def in_step(self) -> Collection[str]:
        """The ids of the prompts that the step holds."""
        return [self._ids[index] for index in self._in_step]

    @property
    def records(self) -> Records:
        return Records()

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next step starts, for JSON."""
        if len(self._parts) == 1:
            return {**self._parts[0].cursor, "fingerprint": self._fingerprint}
        return {
            "parts": [part.cursor for part in self._parts],
            "drawn": list(self._drawn),
            "fingerprint": self._fingerprint,
        }

    def restore(self, cursor: Mapping[str, Any], *, may_differ: bool = False) -> None:
        """Go on where `cursor` was taken. Other prompts, or another order of them, are refused, or begin with the next
        epoch where they `may_differ`."""
        cursors = cursor.get("parts") or [cursor]
        self.start_step()
        if cursor["fingerprint"] != self._fingerprint:
            if not may_differ:
                raise ValueError(_OTHER_PROMPTS)
            epoch = max(int(of_part["epoch"]) for of_part in cursors) + 1
            for part in self._parts:
                part.start_epoch(epoch)
            self._drawn = [0] * len(self._parts)
            return
        for part, of_part in zip(self._parts, cursors, strict=True):
            part.restore(of_part)
        self._drawn = [int(count) for count in cursor.get("drawn", [0])]

    def _positioned_from(self, first: int) -> list[StepPrompt]:
        drawn = list(self._in_step)[first:]
        return [
            StepPrompt(position=position, prompt=self._prompts[index])
            for position, index in enumerate(drawn, start=first)
        ]

    def _part_of(self, index: int) -> int:
        return next(number for number, part in enumerate(self._parts) if index in part.rows)

    def _draw(self) -> int:
        """The next prompt that the step does not hold; there is one."""
        if len(self._parts) == 1:
            return self._parts[0].draw(self._in_step)
        drawn = sum(self._drawn) + 1
        owed = [w * drawn - n for w, n in zip(self._weights, self._drawn, strict=True)]
        for number in sorted(range(len(owed)), key=lambda n: -owed[n]):
            if self._of_step[number] < len(self._parts[number].order):
                self._of_step[number] += 1
                self._drawn[number] += 1
                return self._parts[number].draw(self._in_step)
        raise AssertionError("the step holds every prompt")

    def _compute_fingerprint(self) -> str:
        """Of what is drawn, in which order: that of the first epoch, and a mixture's shares."""
        digest = hashlib.blake2b(digest_size=16)
        for number, (part, weight) in enumerate(zip(self._parts, self._weights, strict=True)):
            if len(self._parts) > 1:
                digest.update(f"\n{number}:{weight!r}\n".encode())
            is_first = True
            for name in self._ids.in_order(part.order):
                digest.update(name.encode() if is_first else f"\n{name}".encode())
                is_first = False
        return digest.hexdigest()


class _Epochs:
    """One file's prompts, epoch after epoch."""

    def __init__(self, ids: PromptIds, rows: range, *, seed: int, shuffle: bool) -> None:
        self._ids, self.rows = ids, rows
        self._seed, self._shuffle = seed, shuffle
        self._put_off: list[int] = []
        self._epoch, self._offset, self.order = 0, 0, self._order_of(0)

    def start_epoch(self, epoch: int) -> None:
        """At its beginning, with nothing put off."""
        self._put_off = []
        self._begin(epoch)

    def draw(self, in_step: Mapping[int, None]) -> int:
        for index in self._put_off:
            if index not in in_step:
                self._put_off.remove(index)
                return index
        while True:
            if self._offset == len(self.order):
                self._begin(self._epoch + 1)
            index = int(self.order[self._offset])
            self._offset += 1
            if index not in in_step:
                return index
            self._put_off.append(index)

    @property
    def cursor(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "offset": self._offset,
            "put_off": [self._ids[index] for index in self._put_off],
        }

    def restore(self, cursor: Mapping[str, Any]) -> None:
        self._begin(int(cursor["epoch"]))
        self._offset = int(cursor["offset"])
        self._put_off = self._ids.indices_of([str(name) for name in cursor["put_off"]])

    def _begin(self, epoch: int) -> None:
        self._offset = 0
        if epoch != self._epoch:
            self._epoch, self.order = epoch, self._order_of(epoch)

    def _order_of(self, epoch: int) -> Array:
        if not self._shuffle:
            return np.arange(self.rows.start, self.rows.stop, dtype=np.uint32)
        return order_by_hash(self._ids, self.rows, f"{self._seed}:{epoch}")

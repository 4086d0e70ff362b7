"""Which prompts each step trains on: one global order that no rank and no layout changes.

The order of an epoch is a pure function of (seed, epoch, prompt ids): prompts sorted by a hash of
the three. So every rank computes it alone, a reordered file trains the same, and a cursor of a few
numbers is enough to go on.

Promises:
- killed after any step and resumed with its cursor, the run draws the same next batch;
- positions count 0, 1, 2, ... through a step, over all of its batches (dynamic sampling draws
  several);
- a step never holds a prompt twice. Where an epoch ends inside a step, prompts of the next epoch
  that the step already holds are put off: they come first in the following step.

Example, three prompts a, b, c, two a step: the orders "b c a" and "a c b" give the steps (b c),
(a c), (a b). In the second step epoch 0 ended with a; epoch 1 began with a, which was put off, then
gave c. The third step starts with the a that was put off.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

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


class PromptSource:
    """`start_step`, then `next_batch` once or more. Every rank holds one and draws the same."""

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, shuffle: bool) -> None:
        repeated = [
            name for name, count in Counter(p.prompt_id for p in prompts).items() if count > 1
        ]
        assert prompts and not repeated, (
            f"prompts must be there, each once; repeated: {repeated[:3]}"
        )
        self._prompts = {prompt.prompt_id: prompt for prompt in prompts}
        self._seed = seed
        self._shuffle = shuffle
        self._fingerprint = _digest("\n".join(self._order_of(0)))
        self._start_epoch(0)
        self._put_off: list[str] = []
        self._in_step: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def start_step(self) -> None:
        """Positions start at 0 again, and every prompt may be drawn again."""
        self._in_step = {}

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
        for prompt_id in prompt_ids:
            assert prompt_id not in self._in_step, f"the step holds {prompt_id} already"
            self._in_step[prompt_id] = None
        return self._positioned_from(first)

    @property
    def in_step(self) -> Collection[str]:
        """The ids of the prompts that the step holds."""
        return self._in_step.keys()

    @property
    def records(self) -> Records:
        return Records()

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next step starts, for JSON."""
        return {
            "epoch": self._epoch,
            "offset": self._offset,
            "put_off": list(self._put_off),
            "fingerprint": self._fingerprint,
        }

    def restore(self, cursor: Mapping[str, Any], *, may_differ: bool = False) -> None:
        """Go on where `cursor` was taken. Other prompts, or another order of them, are refused, or begin with the next
        epoch where they `may_differ`."""
        if cursor["fingerprint"] != self._fingerprint:
            if not may_differ:
                raise ValueError(_OTHER_PROMPTS)
            self._start_epoch(int(cursor["epoch"]) + 1)
            self._put_off = []
            self.start_step()
            return
        self._start_epoch(int(cursor["epoch"]))
        self._offset = int(cursor["offset"])
        self._put_off = [str(prompt_id) for prompt_id in cursor["put_off"]]
        self.start_step()

    def _positioned_from(self, first: int) -> list[StepPrompt]:
        drawn = list(self._in_step)[first:]
        return [
            StepPrompt(position=position, prompt=self._prompts[prompt_id])
            for position, prompt_id in enumerate(drawn, start=first)
        ]

    def _draw(self) -> str:
        """The next prompt that the step does not hold; there is one."""
        for prompt_id in self._put_off:
            if prompt_id not in self._in_step:
                self._put_off.remove(prompt_id)
                return prompt_id
        while True:
            if self._offset == len(self):
                self._start_epoch(self._epoch + 1)
            prompt_id = self._order[self._offset]
            self._offset += 1
            if prompt_id not in self._in_step:
                return prompt_id
            self._put_off.append(prompt_id)

    def _start_epoch(self, epoch: int) -> None:
        self._epoch, self._offset, self._order = epoch, 0, self._order_of(epoch)

    def _order_of(self, epoch: int) -> list[str]:
        if not self._shuffle:
            return list(self._prompts)
        return sorted(
            self._prompts, key=lambda prompt_id: _digest(f"{self._seed}:{epoch}:{prompt_id}")
        )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()

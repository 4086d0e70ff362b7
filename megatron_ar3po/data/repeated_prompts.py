"""Prompts that stand in the data more than once: kept once where their answers are equal, refused where they are not.

Of every prompt that was seen this keeps two hashes and the number of its row, about 160 bytes; whole rows only of those
that come again with something else beside the same question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from megatron_ar3po.data.prompt_rows import list_some
from megatron_ar3po.data.prompt_table import Origin, PromptTable
from megatron_ar3po.interfaces import GradingRules
from megatron_ar3po.types import Prompt

_HASH_BYTES = 16


class _Again(NamedTuple):
    first: int  # row of the table that asks the same
    prompt: Prompt
    origin: Origin
    version: str  # of its verifier
    options: Mapping[str, str]


class RepeatedPrompts:
    def __init__(self) -> None:
        self._first: dict[bytes, bytes] = {}  # by its tokens: the row, and what else decides
        self._again: list[_Again] = []
        self.count = 0

    def is_first(
        self, prompt: Prompt, origin: Origin, version: str, options: Mapping[str, str]
    ) -> bool:
        """Whether the prompt is new; it then becomes the next row of the table."""
        tokens = _hash(np.asarray(prompt.token_ids, np.int64).tobytes())
        rest = _hash(json.dumps([prompt.ground_truth, version, dict(options)]).encode())
        row = len(self._first).to_bytes(8, "big")
        known = self._first.setdefault(tokens, row + rest)
        if known[:8] == row:
            return True
        self.count += 1
        if known[8:] != rest:
            first = int.from_bytes(known[:8], "big")
            self._again.append(_Again(first, prompt, origin, version, options))
        return False

    def check(
        self, grading: GradingRules, table: PromptTable, where: Callable[[Origin], str]
    ) -> None:
        """Raises ValueError for a prompt with unlike verifiers or tolerances, or with answers that its verifier calls
        different."""
        pairs: list[tuple[Prompt, _Again]] = []
        for again in self._again:
            first = table[again.first]
            first_where = where(table.origin_of(again.first))
            self._check_same_grading(grading, first, again, where(again.origin), first_where)
            if first.ground_truth != again.prompt.ground_truth:
                pairs.append((first, again))
        if not pairs:
            return
        reasons = grading.why_different([(first, again.prompt) for first, again in pairs])
        different = [
            f"{where(again.origin)}: the prompt is that of {where(table.origin_of(again.first))}, but its answer is "
            f"{again.prompt.ground_truth[:80]!r} and not {first.ground_truth[:80]!r} ({reason})"
            for (first, again), reason in zip(pairs, reasons, strict=True)
            if reason is not None
        ]
        if different:
            raise ValueError(
                f"{len(different)} lines ask what another line asks, and the verifier calls their answers different:\n"
                f"{list_some(different)}\nKeep the lines that are right."
            )

    @staticmethod
    def _check_same_grading(
        grading: GradingRules, first: Prompt, again: _Again, where: str, first_where: str
    ) -> None:
        version = grading.version_of(first.source)
        if again.version != version:
            raise ValueError(
                f"{where}: the prompt is that of {first_where}, but its source {again.prompt.source!r} has another "
                f"verifier ({again.version}) than {first.source!r} ({version}); keep the line that is right."
            )
        options = dict(grading.options_of(first.source, first.metadata))
        if dict(again.options) != options:
            raise ValueError(
                f"{where}: the prompt and its answer are those of {first_where}, but it is graded with "
                f"{again.options or 'no tolerance'} and not with {options or 'no tolerance'}; keep the line that is "
                "right."
            )


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_HASH_BYTES).digest()

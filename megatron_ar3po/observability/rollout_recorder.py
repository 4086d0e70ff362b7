"""A few whole response groups per step as JSONL, laid out to be read: reading them is part of debugging.

Each response has its text and its verdict, its advantage where it trains, and of its first `MAX_TOKENS` tokens the
log-prob with which it was sampled and how many characters of the text it is (`token_lengths`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.observability.token_pieces import TokenPieces
from megatron_ar3po.response_json import readable_json
from megatron_ar3po.types import ResponseGroup, RowKey, ScoredResponse, TrainingSample

MAX_TOKENS = 1024  # of a response: about 10 KB of the file
_FIELDS = ("reward", "status", "reason", "origin", "stage", "tokens", "policy_version")


class RolloutRecorder:
    """Appends to RUN/rollouts.jsonl. Prefers the groups worth a look: borrowed first, then mixed, then the rest.
    `is_silent`: on ranks that write nothing."""

    def __init__(
        self,
        path: Path,
        decode: Callable[[Sequence[int]], str],
        *,
        num_groups: int,
        every_steps: int,
        is_silent: bool = False,
    ) -> None:
        self._path = path
        self._decode = decode
        self._pieces = TokenPieces(decode)
        self._num_groups = 0 if is_silent else num_groups
        self._every_steps = max(every_steps, 1)

    def record(
        self, step: int, groups: Sequence[ResponseGroup], samples: Sequence[TrainingSample] = ()
    ) -> None:
        """`samples`: what the groups train."""
        if self._num_groups < 1 or step % self._every_steps:
            return
        advantages = {sample.row_key: sample.advantage for sample in samples}
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            for group in sorted(groups, key=_least_interesting)[: self._num_groups]:
                row = self._readable(step, group, advantages)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _readable(
        self, step: int, group: ResponseGroup, advantages: Mapping[RowKey, float]
    ) -> dict[str, object]:
        return {
            "step": step,
            "prompt": group.prompt.text,
            "ground_truth": group.prompt.ground_truth,
            "stages": group.num_stages,
            "responses": [
                self._readable_response(
                    scored,
                    advantages.get(
                        RowKey(group.position, scored.response.response_id, scored.origin)
                    ),
                )
                for scored in (*group.responses, *group.errored)
            ],
            "prompt_id": group.prompt.prompt_id,
            "source": group.prompt.source,
        }

    def _readable_response(self, scored: ScoredResponse, advantage: float | None) -> dict[str, Any]:
        response = scored.response
        token_ids = response.token_ids.tolist()
        text = self._decode(token_ids)
        logprobs = response.logprobs[:MAX_TOKENS].tolist()
        return {
            **readable_json(scored, text, _FIELDS),
            "advantage": None if advantage is None else round(advantage, 4),
            "logprobs": [round(logprob, 3) for logprob in logprobs],
            "token_lengths": self._pieces.lengths(token_ids[:MAX_TOKENS], text),
        }


def _least_interesting(group: ResponseGroup) -> tuple[int, int]:
    is_mixed = len({r.is_correct for r in group.responses}) > 1
    return (0 if group.num_borrowed else 1 if is_mixed else 2, group.position)

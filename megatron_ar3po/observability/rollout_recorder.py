"""A few whole response groups per step as JSONL, laid out to be read: reading them is part of debugging."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.response_json import readable_json
from megatron_ar3po.types import ResponseGroup

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
        self._num_groups = 0 if is_silent else num_groups
        self._every_steps = max(every_steps, 1)

    def record(self, step: int, groups: Sequence[ResponseGroup]) -> None:
        if self._num_groups < 1 or step % self._every_steps:
            return
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            for group in sorted(groups, key=_least_interesting)[: self._num_groups]:
                file.write(json.dumps(self._readable(step, group), ensure_ascii=False) + "\n")

    def _readable(self, step: int, group: ResponseGroup) -> dict[str, object]:
        return {
            "step": step,
            "prompt": group.prompt.text,
            "ground_truth": group.prompt.ground_truth,
            "stages": group.num_stages,
            "responses": [
                readable_json(scored, self._decode(scored.response.token_ids.tolist()), _FIELDS)
                for scored in (*group.responses, *group.errored)
            ],
            "prompt_id": group.prompt.prompt_id,
        }


def _least_interesting(group: ResponseGroup) -> tuple[int, int]:
    is_mixed = len({r.is_correct for r in group.responses}) > 1
    return (0 if group.num_borrowed else 1 if is_mixed else 2, group.position)

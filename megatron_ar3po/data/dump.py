"""One step's groups in a file, to be trained on again at any layout. Plain tensors and numbers: loading one runs no
code.

Groups, and not the samples made of them: what is made of a group, a KL penalty on its rewards among it, is made again
by the lines that made it in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.prompt_record import PromptRecord
from megatron_ar3po.types import Prompt, Response, ResponseGroup, ScoredResponse, Verdict
from megatron_ar3po.usage import Retries

_FORMAT = 2


class StepDump:
    """Writes RUN/dumps/step_00002.pt for the steps of `debug.dump_steps`."""

    def __init__(self, folder: Path, ranks: Ranks, *, steps: Sequence[int]) -> None:
        self._folder = folder
        self._ranks = ranks
        self._steps = frozenset(steps)

    def write(self, groups: Sequence[ResponseGroup], *, step: int, policy_version: int) -> None:
        """Collective over all ranks. `groups`: those of this replica, after borrowing."""
        if step not in self._steps:
            return
        everyone = [g for part in self._ranks.gather_over_replicas(list(groups)) for g in part]
        if self._ranks.is_first:
            path = self._folder / f"step_{step:05d}.pt"
            save_groups(path, everyone, step=step, policy_version=policy_version)


def save_groups(
    path: Path, groups: Sequence[ResponseGroup], *, step: int, policy_version: int
) -> None:
    rows = [_to_plain(asdict(group)) for group in sorted(groups, key=lambda g: g.position)]
    content = {"format": _FORMAT, "step": step, "policy_version": policy_version, "groups": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with naming(path):
        torch.save(content, unfinished)
    unfinished.replace(path)


def load_groups(path: Path) -> list[ResponseGroup]:
    """By position. Raises ValueError for a file that is no dump of this format."""
    content = torch.load(path, weights_only=True)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"debug.replay_path={path} is not a dumped step of format {_FORMAT}; dump one with debug.dump_steps=[1]."
        )
    return [_to_group(row) for row in content["groups"]]


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(part) for part in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _to_group(row: dict[str, Any]) -> ResponseGroup:
    prompt = Prompt(**{**row["prompt"], "token_ids": tuple(row["prompt"]["token_ids"])})
    responses = tuple(_to_scored(scored) for scored in row["responses"])
    left_out = tuple(_to_scored(scored) for scored in row.get("left_out", ()))
    record = PromptRecord(**row.get("record", {}))
    return ResponseGroup(
        **{
            **row,
            "prompt": prompt,
            "responses": responses,
            "left_out": left_out,
            "record": record,
        }
    )


def _to_scored(row: dict[str, Any]) -> ScoredResponse:
    response: dict[str, Any] = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in row["response"].items()
    }
    response["retries"] = Retries(**response.get("retries", {}))
    return ScoredResponse(
        **{**row, "response": Response(**response), "verdict": Verdict(**row["verdict"])}
    )

"""`RunState`: all that a resume needs beside the weights. Random choices are functions of (seed, step), so no
generator's state is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.run.facts import RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where the run stands after `step` steps."""

    step: int = 0
    policy_version: int = 0
    totals: dict[str, float] = field(default_factory=dict)  # running totals of the metrics
    prompt_cursor: dict[str, Any] = field(default_factory=dict)
    store_cursor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy_digest: str = ""  # of all that the policy was trained on
    # Of `EntropyFloor`; empty without one.
    entropy_floor: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    # How far metrics, rollouts and ledger were written, and what that came to (`row_files`).
    row_files: Mapping[str, FileDigest] = field(default_factory=dict[str, FileDigest])

    def advance(self, *, policy_version: int) -> RunState:
        return replace(self, step=self.step + 1, policy_version=policy_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """Where a run takes up; without a checkpoint it starts anew."""

    checkpoint: Path | None = None
    state: RunState = RunState()
    facts: RunFacts = field(default_factory=RunFacts)  # of the run from here on

    @property
    def last_step(self) -> int:
        """What was written about later steps is of another try: a run that starts anew keeps nothing, and one that goes
        on from a checkpoint of step 0 keeps step 0, its first evaluation."""
        return -1 if self.checkpoint is None else self.state.step


def read_state(folder: Path) -> RunState:
    content = json.loads((folder / "state.json").read_text("utf-8"))
    row_files = {name: FileDigest(*digest) for name, digest in content.get("row_files", {}).items()}
    return RunState(**{**content, "row_files": row_files})

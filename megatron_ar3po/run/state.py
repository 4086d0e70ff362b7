"""`RunState`: all that a resume needs beside the weights. Random choices are functions of (seed, step), so no
generator's state is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where the run stands after `step` steps."""

    step: int = 0
    policy_version: int = 0
    totals: dict[str, float] = field(default_factory=dict)  # running totals of the metrics
    prompt_cursor: dict[str, Any] = field(default_factory=dict)
    store_cursor: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def advance(self, *, policy_version: int) -> RunState:
        return replace(self, step=self.step + 1, policy_version=policy_version)


def read_state(folder: Path) -> RunState:
    return RunState(**json.loads((folder / "state.json").read_text()))

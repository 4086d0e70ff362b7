"""Weights & Biases as a metric sink. Offline it writes under RUN/wandb and says no word to the network."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal


class WandbSink:
    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["offline", "online"],
        project: str,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
    ) -> None:
        """`folder`: the run's. `run_id`: of the run before, or ""."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        import wandb  # slow to import, and an extra

        if mode == "online" and not wandb.Api().api_key:
            raise RuntimeError("no API key is known here: `wandb login`, or WANDB_API_KEY")
        self.run_id = run_id or secrets.token_hex(4)
        self._run = wandb.init(
            project=project,
            name=name,
            id=self.run_id,
            dir=str(folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            config=dict(config),
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                silent=True,
                x_disable_stats=True,
            ),
        )
        # Its own counter never goes back, and it drops what would: a step that is done again would be lost.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log({"step": step, **row})

    def close(self, *, is_done: bool) -> None:
        self._run.finish(exit_code=0 if is_done else 1)

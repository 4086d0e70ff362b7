"""The run's folder: looked at when a run starts, changed when it begins, marked at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.observability.row_file import drop_rows_after
from megatron_ar3po.observability.step_events import TRACE_FOLDER, drop_events_after
from megatron_ar3po.run.durable import add_checksum, write_durably
from megatron_ar3po.run.facts import write_facts
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format, write_format
from megatron_ar3po.run.state import RunState, StartingPoint

Found = TypeVar("Found")

STEP_FILES = ("metrics.jsonl", "rollouts.jsonl")  # one row or a few for each step
END_MARKERS = ("DONE", "STOPPED")


def check_run_folder(config: Config) -> None:
    """Raises ValueError where a new run would meet an old one, or a resume a folder of another format. Rank 0 only."""
    folder = config.run.path
    if not config.run.resume and (folder / CONFIG_FILE).exists():
        raise ValueError(
            f"run.dir={folder} already holds a run; set run.resume=true to go on with it, or choose another run.name "
            "or run.dir."
        )
    check_format(folder)


def begin_run(
    config: Config, start: StartingPoint, *, take_up_ledger: Callable[[], Found]
) -> Found | None:
    """RUN becomes this run's: its config, facts and format are written, and the files of an old run go back to `start`.
    Only from here on has a start changed anything, so whatever may refuse it comes before. Rank 0 only.
    `take_up_ledger`: what a resume does to the ledger; what it finds is given back."""
    folder = config.run.path
    try:
        for marker in END_MARKERS:
            (folder / marker).unlink(missing_ok=True)
        write_format(folder)  # before the config: one without a version is of the first format
        write_durably(folder / CONFIG_FILE, add_checksum(to_yaml(config)))
        write_facts(folder, start.facts)  # after it: where facts are, the config has a checksum
        if not config.run.resume:
            return None
        for written in STEP_FILES:
            drop_rows_after(folder / written, start.last_step)
        drop_events_after(folder / TRACE_FOLDER, start.last_step)
        return take_up_ledger()
    except OSError as error:  # a user can mend it: no rights, no space, a file in the way
        raise ValueError(
            f"run.dir={folder} cannot be written ({error.strerror}: {error.filename or folder}); make room or mend its "
            "permissions, or choose another run.dir."
        ) from error


def find_finished(config: Config) -> RunState | None:
    """Where a resume would add nothing: the run is DONE, `run.num_steps` asks for no more, and its policy is exported
    if it is to be. None otherwise."""
    folder = config.run.path
    if not config.run.resume or not (folder / "DONE").is_file():
        return None
    try:
        done = json.loads((folder / "DONE").read_text("utf-8"))
        state = RunState(step=int(done["step"]), policy_version=int(done["policy_version"]))
    except (ValueError, KeyError, TypeError):  # cut short; its checkpoint knows where it stands
        return None
    is_exported = not config.checkpoint.export_hf or (folder / "hf").is_dir()
    return state if state.step >= config.run.num_steps and is_exported else None


def mark_end(folder: Path, state: RunState, *, is_done: bool, reason: str, steps_made: int) -> None:
    """`steps_made`: by this process; none of a job that was warned before its first step (launch_slurm/launch.sh)."""
    content = {
        "step": state.step,
        "policy_version": state.policy_version,
        "reason": reason,
        "steps_made": steps_made,
    }
    write_durably(folder / ("DONE" if is_done else "STOPPED"), json.dumps(content) + "\n")

"""The run's folder: made or found again at the start, marked at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.observability.metrics import drop_rows_after
from megatron_ar3po.run.durable import write_durably
from megatron_ar3po.run.folder_format import CONFIG_FILE, VERSION_FILE, check_format, write_format
from megatron_ar3po.run.state import RunState, read_state


def check_run_folder(config: Config) -> None:
    """Raises ValueError where a new run would meet an old one, or a resume a folder of another format. Rank 0 only."""
    folder = config.run.path
    if not config.run.resume and (folder / CONFIG_FILE).exists():
        raise ValueError(
            f"run.dir={folder} already holds a run; set run.resume=true to go on with it, or choose another run.name "
            "or run.dir."
        )
    check_format(folder)


def open_run_folder(
    config: Config,
    checkpoint: Path | None,
    *,
    abandon_ledger_rows: Callable[[Path, int], object],
) -> None:
    """Makes RUN, or takes its files back to where `checkpoint` stands. Rank 0 only. `abandon_ledger_rows(file, step)`:
    what a resume from `step` does to the ledger's later rows."""
    folder = config.run.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for marker in ("DONE", "STOPPED"):
            (folder / marker).unlink(missing_ok=True)
        shutil.rmtree(folder / "status", ignore_errors=True)  # of the ranks before a resume
        write_format(folder)  # before the config: one without a version is of the first format
        write_durably(folder / CONFIG_FILE, to_yaml(config))
    except OSError as error:  # a user can mend it: no rights, no space, a file in the way
        raise ValueError(
            f"run.dir={folder} cannot be written ({error.strerror}: {error.filename or folder}); make room or mend its "
            "permissions, or choose another run.dir."
        ) from error
    if config.run.resume:
        step = read_state(checkpoint).step if checkpoint else -1
        for written in ("metrics.jsonl", "rollouts.jsonl"):
            drop_rows_after(folder / written, step)
        for written in folder.glob("ledger/*.jsonl"):
            abandon_ledger_rows(written, step)  # what was done twice has cost twice


@contextmanager
def name_free_if_it_never_starts(config: Config, *, is_first: bool) -> Iterator[None]:
    """What fails here has sampled and trained nothing: once it is mended, the same command starts the run."""
    try:
        yield
    except BaseException:
        if is_first and not config.run.resume:
            for written in (CONFIG_FILE, VERSION_FILE):
                (config.run.path / written).unlink(missing_ok=True)
        raise


def mark_end(folder: Path, state: RunState, *, is_done: bool, reason: str) -> None:
    content = {"step": state.step, "policy_version": state.policy_version, "reason": reason}
    write_durably(folder / ("DONE" if is_done else "STOPPED"), json.dumps(content) + "\n")

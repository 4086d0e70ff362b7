"""A disk that takes no more: full, over a quota, read-only, failing. Found before a large write where that can be, and
one sentence with a path where it cannot.

Promises:
- `naming` around a write gives the error a path: what `write`, `flush` and `fsync` raise has none, and torch and
  safetensors raise errors of their own that hide the reason;
- `describe_disk_fault` makes the sentence, at the outermost frame;
- nothing here catches what is not a fault of a disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
# What libraries raise instead of an OSError: safetensors quotes the system, torch.save says neither what nor where.
_QUOTED = {os.strerror(number).lower(): number for number in _FAULTS}
_TORCH_SAVE = ("inline_container.cc", "iostream error")


class NoRoomError(ValueError):
    """A write was not begun, since it would not fit; the message says how much is missing and where."""


class CheckpointNotWrittenError(RuntimeError):
    """Begun and not finished, on any rank; the message is one sentence."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around a write to `path`: a fault of its disk is an OSError with a file name."""
    try:
        yield
    except Exception as error:  # a library's own too; what no disk did travels on as it is
        number = _number_of(error)
        if (
            number is None
            and isinstance(error, RuntimeError)
            and any(said in str(error) for said in _TORCH_SAVE)
        ):
            number = errno.ENOSPC
        is_named = isinstance(error, OSError) and error.filename is not None
        if number is None or is_named:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def describe_disk_fault(error: BaseException) -> str:
    """The sentence, where `error` or what it came of is a fault of a disk; "" elsewhere."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        number = _number_of(following)
        if number is not None:
            name = following.filename if isinstance(following, OSError) else None
            what = name or f"a file that the error does not name ({str(following)[:200]})"
            free = _describe_free(Path(name)) if name else ""
            return (
                f"{what} cannot be written: {os.strerror(number)}{free}. Make room or mend the disk, then resume with "
                "run.resume=true; the newest checkpoint is whole."
            )
        following = following.__cause__ or following.__context__
    return ""


def silence_threads_that_end_of_one() -> None:
    """For the life of the process: what waits for such a thread reports the fault (TensorBoard's writer has one)."""
    report = threading.excepthook

    def report_others(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is None or not describe_disk_fault(ended.exc_value):
            report(ended)

    threading.excepthook = report_others


def missing_room(folder: Path, num_bytes: int, *, to_be_removed: int = 0) -> str:
    """Why `num_bytes` more would not fit under `folder`, which need not be there yet; "" where they fit, or where the
    file system does not say. `to_be_removed`: bytes that make room before anything is written."""
    usage = shutil.disk_usage(_existing(folder))
    free = usage.free + to_be_removed
    if usage.total == 0 or free >= num_bytes:
        return ""
    return (
        f"{folder} has room for {_mib(free)} of the {_mib(num_bytes)} that a checkpoint takes (a quota may leave "
        "less)"
    )


def _number_of(error: BaseException) -> int | None:
    """The system's number of a disk's fault; None where `error` is something else."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _FAULTS else None
    text = str(error).lower()
    for said, number in _QUOTED.items():
        if said in text:
            return number
    return None


def _describe_free(path: Path) -> str:
    try:
        return (
            f" ({_mib(shutil.disk_usage(_existing(path)).free)} free there; a quota may leave less)"
        )
    except OSError:
        return ""


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"

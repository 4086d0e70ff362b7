"""What a node says of itself before any rank starts, each with its figure: disk, shared memory, limits, clock.

A reading is a line for the log, and a problem where the run could not go on with it. Every one has a limit of its own:
a file system that hangs becomes a sentence instead of a job that waits. No torch.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from megatron_ar3po.config.schema import Config
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.platform.host_limits import SHARED_MEMORY, check_open_files
from megatron_ar3po.reporting.checkpoint_size import checkpoint_bytes
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder

LIMIT_S = 60.0
MAX_CLOCK_SKEW_S = 5.0
GPU_SHARED_MEMORY = 2**30
INFINIBAND = "/dev/infiniband"
_CAP_IPC_LOCK, _ALL_UIDS = 1 << 14, ["0", "0", "4294967295"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Reading:
    text: str  # with its figure; "" where there is nothing to say
    problem: str = ""  # what is wrong and what to do


class NoReplyError(Exception):
    """Something that was asked has not replied within its limit."""


def within(limit_s: float, what: str, ask: Callable[[], Value]) -> Value:
    """The reply of `ask`, which has `limit_s` for it. It runs in a thread: a call into a dead file system cannot be
    ended, only left alone."""
    replies: list[Value] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            replies.append(ask())
        except BaseException as error:  # it is raised below, where the caller sees it
            errors.append(error)

    thread = threading.Thread(target=run, name=f"preflight: {what}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not replies:
        raise NoReplyError(
            f"{what} did not reply within {limit_s:.0f} s; a file system hangs (df, mount), or the node is overloaded: "
            "drain it."
        )
    return replies[0]


def read_node(config: Config, *, gpus: int, limit_s: float = LIMIT_S) -> list[Reading]:
    """Every reading of this node alone. The network's is in `network_check`."""
    folder = config.run.path
    asked: list[tuple[str, Callable[[], Reading]]] = [
        ("disk", lambda: read_disk(config)),
        (SHARED_MEMORY, lambda: read_shared_memory(gpus)),
        ("ulimit -n", lambda: read_open_files(config.servers.max_concurrent_requests)),
        ("ulimit -l", lambda: read_locked_memory(gpus)),
        ("clock", lambda: read_clock(folder)),
    ]
    readings = []
    for what, ask in asked:
        try:
            readings.append(within(limit_s, what, ask))
        except (OSError, NoReplyError) as error:
            readings.append(Reading("", f"{what}: {error}"))
    return readings


def read_disk(config: Config) -> Reading:
    """Free space against what the checkpoints take. Refused is only what the trainer would refuse: room for none."""
    folder = config.run.path
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if config.debug.mode == "rollout_only":  # it writes no checkpoint
        return Reading(f"disk: {_size(free)} free in {folder}")
    try:
        one = checkpoint_bytes(config, read_policy_shape(config.model.path))
    except (ValueError, OSError, KeyError):  # told by the checks of the model
        return Reading(f"disk: {_size(free)} free in {folder}")
    keep = config.checkpoint.keep_last
    text = (
        f"disk: {_size(free)} free in {folder}; a checkpoint takes {_size(one)}, {keep} that are kept and one being "
        f"written {_size((keep + 1) * one)}"
    )
    checkpoints = CheckpointFolder(folder / "checkpoints", keep_last=keep, first_bytes=one)
    if missing := checkpoints.missing_room():
        return Reading(text, f"{missing}; make room, or move run.dir.")
    there = sum(1 for _ in checkpoints.checkpoints())
    wanted = (keep + 1 - there) * one
    if free < wanted:
        text += f": {_size(wanted - free)} SHORT of what is still to come"
    return Reading(text)


def read_shared_memory(gpus: int, folder: str = SHARED_MEMORY) -> Reading:
    """NCCL's buffers between the GPUs of a node lie there; a container has 64 MiB by default."""
    if not os.path.isdir(folder):
        return Reading("", f"{folder} is no folder here; mount a tmpfs there.")
    usage = shutil.disk_usage(folder)
    text = f"{folder}: {_size(usage.free)} free of {_size(usage.total)}"
    if gpus > 1 and usage.free < GPU_SHARED_MEMORY:
        return Reading(
            text,
            f"{folder} has {_size(usage.free)} free, but {gpus} GPUs exchange data there and want "
            f"{_size(GPU_SHARED_MEMORY)}; start the container with --ipc=host or --shm-size=16g.",
        )
    return Reading(text)


def read_open_files(max_requests: int) -> Reading:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"ulimit -n: {_limit(soft)} (at most {_limit(hard)})"
    try:
        check_open_files(max_requests)
    except ValueError as error:
        return Reading(text, str(error))
    return Reading(text)


def read_locked_memory(
    gpus: int, adapters: str = INFINIBAND, process: Path = Path("/proc/self")
) -> Reading:
    """InfiniBand pins what it sends; of a small limit NCCL's first call fails."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = f"ulimit -l: {'unlimited' if soft == resource.RLIM_INFINITY else _size(soft)}"
    if soft != resource.RLIM_INFINITY and _may_pin_any(process):
        return Reading(f"{text}, which does not bind (CAP_IPC_LOCK)")
    if gpus and soft != resource.RLIM_INFINITY and os.path.isdir(adapters):
        return Reading(
            text,
            f"ulimit -l is {_size(soft)}, but {adapters} is there and its adapters pin memory; make it unlimited: "
            "--ulimit memlock=-1 of a container, IPC_LOCK of a pod, LimitMEMLOCK=infinity of slurmd.",
        )
    return Reading(text)


def _may_pin_any(process: Path) -> bool:
    """CAP_IPC_LOCK, as the kernel asks of who pins memory: that of a user namespace does not count."""
    try:
        status = (process / "status").read_text("utf-8")
        is_own_namespace = (process / "uid_map").read_text("utf-8").split() != _ALL_UIDS
    except OSError:
        return False
    effective = next((x.split()[1] for x in status.splitlines() if x.startswith("CapEff:")), "0")
    return not is_own_namespace and bool(int(effective, 16) & _CAP_IPC_LOCK)


def read_clock(folder: Path, clock: Callable[[], float] = time.time) -> Reading:
    """This clock against the file server's, which all nodes share. The server wrote its time between the question and
    the reply, which may take seconds; what lies outside of both is a difference."""
    try:
        before = clock()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            written = os.stat(file.name).st_mtime
        after = clock()
    except OSError:
        return Reading("")  # told by the check of the shared folder
    skew = max(0.0, before - written) or min(0.0, after - written)
    text = f"clock: {skew:+.2f} s from the file server's"
    if abs(skew) > MAX_CLOCK_SKEW_S:
        return Reading(
            text,
            f"the clock differs from the file server's by {skew:.0f} s; restart its time service (chronyd, ntpd).",
        )
    return Reading(text)


def _size(num_bytes: float) -> str:
    """
    >>> _size(67_108_864), _size(3.5 * 2**30), _size(2048)
    ('64.0 MiB', '3.5 GiB', '2.0 KiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)

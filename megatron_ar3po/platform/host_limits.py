"""Limits of this machine that would end a run in its middle with a word that names no cause. No torch."""

from __future__ import annotations

import os
import resource
import shutil

SHARED_MEMORY = "/dev/shm"
# Of the trainer of examples/tiny_sum 100 are open between two rollouts, of its server 130.
_OTHER_FILES = 192
_FEWEST_CONNECTIONS = 64


def check_open_files(max_requests: int) -> None:
    """ValueError where a process may have too few open for `max_requests` at a time; 0: for a run that makes do with
    what there is. `prepare_process` has raised the soft limit as far as it may."""
    needed = _OTHER_FILES + (max_requests or _FEWEST_CONNECTIONS)
    allowed = _OTHER_FILES + connection_room()
    if allowed < needed:
        run, lower = "a run", ""
        if max_requests:
            run = f"a run with servers.max_concurrent_requests={max_requests}"
            lower = " Or lower servers.max_concurrent_requests."
        raise ValueError(
            f"a process may have {allowed} files open here (ulimit -n), but {run} needs {needed}, "
            "its connections and libraries among them; raise the limit before the start: ulimit -n in the shell, "
            f"LimitNOFILE= of a service, --ulimit nofile= of a container.{lower}"
        )


def connection_room() -> int:
    """So many connections may be open at a time; every request in flight is one."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (2**20 if allowed == resource.RLIM_INFINITY else allowed) - _OTHER_FILES


def find_missing_shared_memory(num_bytes: int, folder: str = SHARED_MEMORY) -> str:
    """Why `num_bytes` more would not fit; "" where they do. A process that writes to shared memory which is full is
    ended by the kernel (SIGBUS), and nothing is raised."""
    if not os.path.isdir(folder):
        return f"{folder} is no folder here"
    free = shutil.disk_usage(folder).free
    if free >= num_bytes:
        return ""
    return f"{folder} has {free / 2**20:,.1f} MiB free"

"""One small all-reduce over all nodes of a job, before the trainer starts: that they meet, how fast, how far their
clocks are apart.

Each node starts as many processes as it will have ranks, at the job's address and the port behind the job's. They end
before the trainer begins. A network that does not work costs minutes here; in the trainer it would cost
`run.collective_timeout_s`, after the servers have loaded the model.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.launch.arguments import Rendezvous
from megatron_ar3po.launch.code_check import paths_for_children
from megatron_ar3po.launch.readings import MAX_CLOCK_SKEW_S, Reading
from megatron_ar3po.platform.process_guard import die_with_parent
from megatron_ar3po.platform.running_code import PACKAGE, find_installed_package

GPU_MIB, CPU_MIB = 256, 16
MEET_S = 600.0  # a node may still be unpacking its image
REDUCE_S = 120.0
PROGRAM = (sys.executable, "-m", "megatron_ar3po.launch.all_reduce")
_TAIL = 400


def port_of(rendezvous: Rendezvous) -> int:
    """Another one than the trainer's: a node that is done already could meet the trainer of one that is not."""
    return rendezvous.master_port + 1


def read_network(
    rendezvous: Rendezvous,
    *,
    ranks_per_node: int,
    gpus: int,
    mib: int | None = None,
    meet_s: float = MEET_S,
    reduce_s: float = REDUCE_S,
    program: Sequence[str] = PROGRAM,
) -> Reading:
    """`mib`: what is reduced; None: 256 with GPUs, 16 without; 0: nothing. Only node 0 knows the figure."""
    if rendezvous.num_nodes == 1 or mib == 0:
        return Reading("")
    size = mib or (GPU_MIB if gpus else CPU_MIB)
    with tempfile.TemporaryDirectory(prefix="all-reduce-") as folder:
        outputs = [Path(folder) / f"{local}" for local in range(ranks_per_node if gpus else 1)]
        command = [*program, f"--mib={size}", f"--meet-s={meet_s}"]
        with _start(rendezvous, command, outputs) as processes:
            problem = _wait(processes, outputs, rendezvous, meet_s, reduce_s)
        if problem:
            return Reading("", problem)
        lines = outputs[0].read_text(encoding="utf-8").splitlines()
    if rendezvous.node_rank != 0:
        return Reading("")
    # Not the last line: of NCCL_DEBUG=INFO NCCL writes behind it.
    figures = next(line for line in reversed(lines) if line.startswith("{"))
    return describe(json.loads(figures), rendezvous)


def describe(measured: dict[str, Any], rendezvous: Rendezvous) -> Reading:
    """Bus bandwidth as NCCL's tests count it: of n ranks each sends and receives 2 (n - 1) / n of the bytes."""
    ranks, seconds = measured["num_ranks"], measured["seconds"]
    rate = measured["num_bytes"] / seconds * 2 * (ranks - 1) / ranks / 1e9
    clocks: dict[str, float] = measured["clocks_ahead_s"]
    latest, earliest = max(clocks, key=lambda n: clocks[n]), min(clocks, key=lambda n: clocks[n])
    skew = clocks[latest] - clocks[earliest]
    text = (
        f"network: {measured['num_bytes'] / 2**20:.0f} MiB reduced over {rendezvous.num_nodes} nodes, {ranks} ranks "
        f"({measured['backend']}) in {seconds * 1e3:.1f} ms, {rate:.2f} GB/s; their clocks are within {skew:.3f} s"
    )
    if skew > MAX_CLOCK_SKEW_S:
        return Reading(
            text,
            f"the clock of {latest} is {skew:.0f} s ahead of that of {earliest}; restart its time service (chronyd, "
            "ntpd).",
        )
    return Reading(text)


@contextlib.contextmanager
def _start(rendezvous: Rendezvous, command: Sequence[str], outputs: Sequence[Path]) -> Any:
    """The node's processes; none of them is left behind."""
    paths = paths_for_children(os.environ, PACKAGE, find_installed_package(), Path.cwd())
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for local, output in enumerate(outputs):
            environment = {
                **os.environ,
                **paths,
                "RANK": str(rendezvous.node_rank * len(outputs) + local),
                "WORLD_SIZE": str(rendezvous.num_nodes * len(outputs)),
                "LOCAL_RANK": str(local),
                "MASTER_ADDR": rendezvous.master_addr,
                "MASTER_PORT": str(port_of(rendezvous)),
            }
            with output.open("wb") as file:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                        preexec_fn=_follow_the_parent,
                    )
                )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def _follow_the_parent() -> None:
    """In the child: a warning to all processes of a step is not for it."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _wait(
    processes: Sequence[subprocess.Popen[bytes]],
    outputs: Sequence[Path],
    rendezvous: Rendezvous,
    meet_s: float,
    reduce_s: float,
) -> str:
    """What went wrong; "" where every process ended well."""
    began, met_at = time.monotonic(), 0.0
    address = f"{rendezvous.master_addr}:{port_of(rendezvous)}"
    hint = (
        f"name the network by NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, open {address} in the firewall, or skip this "
        "with AR3PO_ALL_REDUCE_MIB=0."
    )
    while not any(process.poll() for process in processes):
        if all(process.poll() == 0 for process in processes):
            return ""
        said = [output.read_text(encoding="utf-8", errors="replace") for output in outputs]
        if not met_at and all("met\n" in text for text in said):
            met_at = time.monotonic()
        now = time.monotonic()
        if not met_at and now - began > meet_s:
            return f"the {rendezvous.num_nodes} nodes did not meet at {address} within {meet_s:.0f} s; {hint}"
        if met_at and now - met_at > reduce_s:
            return (
                f"the {rendezvous.num_nodes} nodes met, but their all-reduce did not end within {reduce_s:.0f} s; "
                f"{hint}"
            )
        time.sleep(0.05)
    code, output = next(
        (process.returncode, output)
        for process, output in zip(processes, outputs, strict=True)
        if process.poll()
    )
    tail = " ".join(output.read_text(encoding="utf-8", errors="replace").split())[-_TAIL:]
    nodes = rendezvous.num_nodes
    return f"an all-reduce over {nodes} nodes failed with code {code} (... {tail}); {hint}"


def read_mib(environment: Mapping[str, str]) -> int | None:
    """AR3PO_ALL_REDUCE_MIB; None where it is unset."""
    text = environment.get("AR3PO_ALL_REDUCE_MIB", "")
    if text and not text.isdecimal():
        raise ValueError(
            f"AR3PO_ALL_REDUCE_MIB={text} is no whole number of MiB; 0 skips the all-reduce before a start."
        )
    return int(text) if text else None

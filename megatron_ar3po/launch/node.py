"""One node of a run: check it, start torchrun, carry signals to the trainer, report the end.

    python -m megatron_ar3po.launch.node --nproc-per-node 8 CONFIG [key=value ...]

A scheduler starts this once on every node; on a laptop it is started once. Promises:
- a node that fails its checks ends at once with code 3 and its name;
- SIGUSR1, SIGTERM or Ctrl-C ask the trainer to stop after its step and save; a second SIGTERM or Ctrl-C ends it now;
- torchrun does not shorten that time: of SIGTERM it would end its ranks, and kill them after 30 s, so here it ignores
  one, also where the scheduler signals every process of the job;
- torchrun and its ranks do not outlive this process.

A request to stop travels as a file (AR3PO_STOP_FILE), not as a signal: a signal sent before the ranks listen is lost,
and one sent to a whole Slurm step would also end the inference servers.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from megatron_ar3po.config.load import load_config
from megatron_ar3po.distributed.stragglers import describe_end
from megatron_ar3po.launch import preflight
from megatron_ar3po.launch.arguments import Rendezvous, torchrun_command
from megatron_ar3po.launch.code_check import paths_for_children
from megatron_ar3po.launch.network_check import read_mib
from megatron_ar3po.platform.process_environment import prepare_process
from megatron_ar3po.platform.process_guard import die_with_parent
from megatron_ar3po.platform.running_code import PACKAGE, find_installed_package

PREFLIGHT_FAILED = 3
CANNOT_START = 2


class TorchrunProcess:
    """torchrun as a child that is asked to stop by a file and ended by its handle."""

    def __init__(
        self, command: Sequence[str], stop_file: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.stop_file = stop_file
        self.stop_requests = 0
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        # A session of its own: Ctrl-C on a terminal reaches this process alone, which then decides.
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {}), "AR3PO_STOP_FILE": str(stop_file)},
            start_new_session=True,
            preexec_fn=_follow_the_parent,
        )

    def wait(self) -> int:
        """The exit code, as a shell would show it."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.stop_requests += number != signal.SIGUSR1
        if self.stop_requests < 2:
            print(f"[node] {name}: asking the trainer to stop after this step and save", flush=True)
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()
        else:
            print(f"[node] {name} again: ending torchrun now", flush=True)
            self._process.send_signal(signal.SIGINT)  # torchrun hands it on, and kills 30 s later


def _follow_the_parent() -> None:
    """In the child, before exec: die with the parent, even where torchrun stands still and could heed no other signal
    (its ranks die with it, see `train.run`); ignore SIGUSR1, of which torchrun would die, and SIGTERM, of which it
    would end its ranks. The ranks set handlers of their own."""
    die_with_parent()
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _keep_early_warning(stop_file: Path) -> None:
    """Of SIGUSR1 this process would die in its checks, which may wait for other nodes; the trainer is to find it."""

    def keep(number: int, frame: FrameType | None) -> None:
        print("[node] SIGUSR1: the trainer will be asked to stop and save as it starts", flush=True)
        stop_file.parent.mkdir(parents=True, exist_ok=True)
        stop_file.touch()

    signal.signal(signal.SIGUSR1, keep)


def default_stop_file(run_folder: Path) -> Path:
    """Differs for every job and restart, so that an old request never stops a new run."""
    job = os.environ.get("SLURM_JOB_ID", f"local-{os.getpid()}")
    return run_folder / f"stop.{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def run_node(
    config: str,
    overrides: Sequence[str] = (),
    *,
    nproc_per_node: int = 1,
    gpus_per_node: int = 0,
    stopped_exit_code: int = 0,
    workdir: str = "",
) -> int:
    """Runs this node's share to its end.

    `workdir` is where relative paths start. `stopped_exit_code` is what a stopped (saved, not finished) run returns: a
    scheduler that requeues only failed jobs needs it non-zero."""
    if workdir:
        os.chdir(workdir)
    loaded = load_config([config], overrides)
    stop_file = Path(os.environ.get("AR3PO_STOP_FILE") or default_stop_file(loaded.run.path))
    _keep_early_warning(stop_file)
    rendezvous = Rendezvous.from_environment(os.environ)
    problems = preflight.problems_of_node(
        loaded,
        gpus_per_node=gpus_per_node,
        nproc_per_node=nproc_per_node,
        rendezvous=rendezvous,
        canary=os.environ.get("AR3PO_CANARY", ""),
        submitted_code=os.environ.get("AR3PO_CODE", ""),
        all_reduce_mib=read_mib(os.environ),
    )
    preflight.report(problems)
    if problems:
        return PREFLIGHT_FAILED

    command = torchrun_command(
        config, overrides, nproc_per_node=nproc_per_node, rendezvous=rendezvous
    )
    print(f"[node] {shlex.join(command)}", flush=True)
    paths = paths_for_children(os.environ, PACKAGE, find_installed_package(), Path.cwd())
    started = time.time()
    code = TorchrunProcess(command, stop_file, paths).wait()
    if rendezvous.node_rank == 0:
        stop_file.unlink(missing_ok=True)
    stopped = not (loaded.run.path / "DONE").exists() and (loaded.run.path / "STOPPED").exists()
    print(
        f"[node] torchrun ended with code {code}{', the run is saved and not finished' if stopped else ''}",
        flush=True,
    )
    if code and (said := describe_end(loaded.run.path / "status", started)):
        print(f"[node] {said}", flush=True)
    return stopped_exit_code if code == 0 and stopped else code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_ar3po.launch.node", description=__doc__
    )
    parser.add_argument(
        "--nproc-per-node", type=int, default=1, help="ranks on this node, one a GPU"
    )
    parser.add_argument(
        "--gpus-per-node", type=int, default=0, help="GPUs that must answer; 0: a CPU run"
    )
    parser.add_argument(
        "--stopped-exit-code", type=int, default=0, help="code of a run that stopped and saved"
    )
    parser.add_argument("--workdir", default="", help="where relative paths start [here]")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    try:
        prepare_process()
        return run_node(
            args.config,
            args.overrides,
            nproc_per_node=args.nproc_per_node,
            gpus_per_node=args.gpus_per_node,
            stopped_exit_code=args.stopped_exit_code,
            workdir=args.workdir,
        )
    except ValueError as error:  # the outermost frame: a user can mend it, so no traceback
        print(
            f"[node] {os.environ.get('SLURMD_NODENAME', socket.gethostname())}: {error}",
            file=sys.stderr,
            flush=True,
        )
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main())

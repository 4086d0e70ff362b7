"""Checks a node before any rank starts, so that a bad node costs seconds and is named.

    python -m megatron_ar3po.launch.preflight --gpus-per-node 8 CONFIG [key=value ...]

Each check returns what is wrong and what to do, or nothing, within a limit. None imports torch or touches a GPU's
memory; the last one, over all nodes of a job, starts processes that do (`network_check`).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TextIO

import psutil
from packaging.requirements import Requirement

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.launch.arguments import Rendezvous
from megatron_ar3po.launch.code_check import check_code
from megatron_ar3po.launch.network_check import port_of, read_mib, read_network
from megatron_ar3po.launch.readings import LIMIT_S, NoReplyError, read_node, within
from megatron_ar3po.platform.process_environment import raise_open_files
from megatron_ar3po.wiring.layout_checks import check_job_layout

MAX_GPU_MEMORY_IN_USE_MIB = 2048
PINNED = ("megatron-core", "sglang", "transformers")


def problems_of_node(
    config: Config,
    *,
    gpus_per_node: int,
    rendezvous: Rendezvous,
    nproc_per_node: int = 0,
    canary: str = "",
    submitted_code: str = "",
    all_reduce_mib: int | None = 0,
) -> list[str]:
    """All that is wrong with this node; empty when it can start. What was read is printed, each with its figure.

    `canary` is PATH=CONTENT, written by the batch script into the run's folder. `nproc_per_node`: ranks on each; 0: one
    for each GPU, or one. `submitted_code`: see `code_check`. `all_reduce_mib`: see `network_check`; it is asked last
    and of a node that is ready otherwise, since all nodes wait for it."""
    ranks = nproc_per_node or max(1, gpus_per_node)
    lines, found = check_code(submitted_code)
    for line in lines:
        say(line)
    nodes = rendezvous.num_nodes
    found += find_within("model.path", lambda: layout_problems(
        config, num_nodes=nodes, nproc_per_node=ranks, gpus_per_node=gpus_per_node
    ))  # fmt: skip
    found += gpu_problems(gpus_per_node)
    found += find_within("run.dir", lambda: shared_folder_problems(config.run.path, canary))
    found += find_within("model.path", lambda: model_problems(config.model.path))
    found += find_within("data.path", lambda: data_problems(config))
    found += version_problems("gpu" if gpus_per_node else "cpu", pinned_requirements())
    found += port_problems(ports_of_node(config, rendezvous, all_reduce_mib))
    for reading in read_node(config, gpus=gpus_per_node):
        say(reading.text)
        found += [reading.problem] if reading.problem else []
    if found or all_reduce_mib == 0:
        return found
    network = read_network(rendezvous, ranks_per_node=ranks, gpus=gpus_per_node, mib=all_reduce_mib)
    say(network.text)
    return [network.problem] if network.problem else []


def ports_of_node(config: Config, rendezvous: Rendezvous, all_reduce_mib: int | None) -> list[int]:
    """That this node will listen at."""
    ports = [config.servers.port] if config.servers.port else []
    if rendezvous.num_nodes > 1 and rendezvous.node_rank == 0:
        ports.append(rendezvous.master_port)
        if all_reduce_mib != 0:
            ports.append(port_of(rendezvous))
    return ports


def find_within(what: str, check: Callable[[], list[str]], limit_s: float = LIMIT_S) -> list[str]:
    """What `check` finds, or that it has not replied: a check must not wait for a file system that hangs."""
    try:
        return within(limit_s, what, check)
    except NoReplyError as error:
        return [str(error)]


def layout_problems(
    config: Config, *, num_nodes: int, nproc_per_node: int, gpus_per_node: int
) -> list[str]:
    """The options and the layout against the nodes that the job has."""
    try:
        check_job_layout(
            config, num_nodes=num_nodes, ranks_per_node=nproc_per_node, gpus_per_node=gpus_per_node
        )
    except ValueError as error:
        return [str(error)]
    return []


def gpu_problems(expected: int) -> list[str]:
    """`expected` GPUs answer, and nobody sits on their memory."""
    if expected == 0:
        return []
    query = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return [
            "nvidia-smi is not there; the node has no driver or the container was started without its GPUs."
        ]
    except subprocess.TimeoutExpired:
        return ["nvidia-smi did not answer within 60 s; a GPU hangs: drain the node."]
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip()
        return [f"nvidia-smi failed with code {answer.returncode}: {said}; drain the node."]
    used = dict(line.split(",") for line in answer.stdout.splitlines() if "," in line)
    found = []
    if len(used) < expected:
        found.append(
            f"{len(used)} GPUs answer, but {expected} ranks start here; drain the node, or lower NPROC_PER_NODE "
            "and --gpus-per-node together."
        )
    for index, mib in used.items():
        if int(mib) > MAX_GPU_MEMORY_IN_USE_MIB:
            found.append(
                f"GPU {index.strip()} has {mib.strip()} MiB in use already; end the process that holds them."
            )
    return found


def shared_folder_problems(folder: Path, canary: str) -> list[str]:
    """The run's folder is the one the batch script sees, and it can be written."""
    if canary:
        path, _, content = canary.rpartition("=")
        read = Path(path).read_text("utf-8").strip() if Path(path).is_file() else None
        if read != content:
            return [
                f"{path} holds {read!r}, but the batch script wrote {content!r}: run.dir={folder} is not one shared "
                "folder on all nodes; put RUN_DIR on the shared file system and name it in CONTAINER_MOUNTS."
            ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-"):
            pass
    except OSError as error:
        return [f"run.dir={folder} cannot be written ({error}); free space or change its rights."]
    return []


def model_problems(path: str) -> list[str]:
    """config.json and every weight file it needs."""
    folder = Path(path)
    if not path or not (folder / "config.json").is_file():
        return [
            f"model.path={path or '(empty)'} holds no config.json; copy the checkpoint there, or mount its folder."
        ]
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    missing = sorted(
        name
        for name in files
        if not (folder / name).is_file() or not (folder / name).stat().st_size
    )
    if missing:
        return [
            f"model.path={path} lacks {len(missing)} of {len(files)} weight files, first {missing[0]}; copy it again."
        ]
    return []


def data_problems(config: Config) -> list[str]:
    found = []
    if config.debug.mode != "train_only":
        option = "data.mixture" if config.data.mixture else "data.path"
        found += [
            f"{option}={path or '(empty)'} is no file here; mount its folder on every node."
            for path in config.data.files or [""]
            if not Path(path).is_file()
        ]
    if config.evaluation.path and not Path(config.evaluation.path).is_file():
        found.append(
            f"evaluation.path={config.evaluation.path} is no file here; mount its folder on every node."
        )
    return found


def pinned_requirements() -> list[str]:
    """What the installed package asks for; nothing where it is not installed."""
    try:
        return metadata.requires("megatron_ar3po") or []
    except metadata.PackageNotFoundError:
        print(
            "preflight: versions not compared: megatron_ar3po runs from its source folder, uninstalled.",
            flush=True,
        )
        return []


def version_problems(extra: str, requirements: Sequence[str]) -> list[str]:
    """The image holds the versions this code is pinned to."""
    found = []
    for requirement in map(Requirement, requirements):
        if requirement.name not in PINNED or (
            requirement.marker and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        try:
            here = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            here = "nothing"
        if here == "nothing" or not requirement.specifier.contains(here, prereleases=True):
            found.append(
                f"the image holds {requirement.name} {here}, but this code needs {requirement}; rebuild the image."
            )
    return found


def port_problems(ports: Sequence[int]) -> list[str]:
    found = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                found.append(_explain_port(port, error))
    return found


def _explain_port(port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"port {port} cannot be listened on ({error.strerror}); use a MASTER_PORT from 1024 to 65535."
    holder = holder_of_port(port)
    known = f" by process {holder}" if holder else "; `ss -ltnp` shows by whom, as root"
    return (
        f"port {port} is taken ({error.strerror}){known}. End it, where it is left of an earlier job; "
        "else submit again: a job's port follows from its number."
    )


def holder_of_port(port: int) -> str:
    """As in "4711 (python -m ...)"; "" where that is not to be seen."""
    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
        pid = next((c.pid for c in found if c.pid and c.status == psutil.CONN_LISTEN), None)
        return f"{pid} ({' '.join(psutil.Process(pid).cmdline())[:120]})" if pid else ""
    except psutil.Error:
        return ""


def report(problems: Sequence[str]) -> None:
    """One line for each problem, with the node's name in it."""
    for problem in problems:
        say(problem, file=sys.stderr)
    if not problems:
        say("ready")


def say(text: str, file: TextIO | None = None) -> None:
    if not text:
        return
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    print(f"preflight: node {node}: {text}", file=file, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_ar3po.launch.preflight", description=__doc__
    )
    parser.add_argument(
        "--gpus-per-node", type=int, default=8, help="GPUs that must answer; 0: a CPU run"
    )
    parser.add_argument(
        "--nproc-per-node", type=int, default=0, help="ranks on each node [its GPUs, or 1]"
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    raise_open_files()  # as every process of a run does
    problems = problems_of_node(
        load_config([args.config], args.overrides),
        gpus_per_node=args.gpus_per_node,
        nproc_per_node=args.nproc_per_node,
        rendezvous=Rendezvous.from_environment(os.environ),
        canary=os.environ.get("AR3PO_CANARY", ""),
        submitted_code=os.environ.get("AR3PO_CODE", ""),
        all_reduce_mib=read_mib(os.environ),
    )
    report(problems)
    return 3 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

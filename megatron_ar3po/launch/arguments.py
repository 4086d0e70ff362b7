"""The trainer's command line, built in one place: Slurm, NeMo-Run and the laptop start the same words.

Two commands are made here. `node_words` is what a scheduler runs once on every node; `torchrun_command` is what that
node then runs, and it ends in `python -m megatron_ar3po.train CONFIG key=value ...`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NODE_MODULE = "megatron_ar3po.launch.node"
TRAINER_MODULE = "megatron_ar3po.train"
# In a batch script: below the ephemeral ports (32768 and up), and another one after a requeue.
JOB_PORT_EXPRESSION = "$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0} * 101) % 10000))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Where the ranks of all nodes meet, and which node this is. One node needs no rendezvous."""

    num_nodes: int = 1
    node_rank: int = 0
    master_addr: str = ""
    master_port: int = 0

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Rendezvous:
        """Slurm's variables, with MASTER_ADDR and MASTER_PORT from the batch script; without Slurm, those that
        torchrun reads itself: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT."""
        if "SLURM_NNODES" not in env and "PET_NNODES" in env:
            return cls._from_torchrun(env)
        num_nodes = int(env.get("SLURM_NNODES", "1"))
        if num_nodes == 1:
            return cls()
        if not ("MASTER_ADDR" in env and "MASTER_PORT" in env):
            raise ValueError(
                f"SLURM_NNODES={num_nodes}, but MASTER_ADDR and MASTER_PORT are not both set, so the nodes cannot "
                "meet; export them in the batch script as launch_slurm/launch.sh does."
            )
        return cls(
            num_nodes=num_nodes,
            node_rank=int(env.get("SLURM_NODEID", "0")),
            master_addr=env["MASTER_ADDR"],
            master_port=int(env["MASTER_PORT"]),
        )

    @classmethod
    def _from_torchrun(cls, env: Mapping[str, str]) -> Rendezvous:
        names = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
        if env["PET_NNODES"] == "1":
            return cls()
        given = {name: env.get(name, "") for name in names}
        wrong = [name for name in names if not given[name]]
        wrong += [name for name in names if "ADDR" not in name and not given[name].isdecimal()]
        if wrong:
            shown = ", ".join(f"{name}={value or '(unset)'}" for name, value in given.items())
            raise ValueError(
                f"{shown}: {wrong[0]} does not say how the nodes meet; set all four on every node, as numbers but for "
                "the address of node 0 (a range of nodes, as in 1:4, is not supported)."
            )
        if int(given["PET_NODE_RANK"]) >= int(given["PET_NNODES"]):
            raise ValueError(
                f"PET_NODE_RANK={given['PET_NODE_RANK']} is no node of PET_NNODES={given['PET_NNODES']}; count from 0."
            )
        return cls(
            num_nodes=int(given["PET_NNODES"]),
            node_rank=int(given["PET_NODE_RANK"]),
            master_addr=given["PET_MASTER_ADDR"],
            master_port=int(given["PET_MASTER_PORT"]),
        )

    def torchrun_words(self) -> list[str]:
        """Several nodes meet statically: Slurm has already decided who takes part. One node lets torchrun choose the
        port itself; a port that was free when we asked may be taken when torchrun is ready."""
        if self.num_nodes == 1:
            return ["--standalone", "--local-addr=127.0.0.1"]
        return [
            f"--nnodes={self.num_nodes}",
            f"--node-rank={self.node_rank}",
            f"--master-addr={self.master_addr}",
            f"--master-port={self.master_port}",
        ]


def trainer_words(config: str, overrides: Sequence[str]) -> list[str]:
    """What follows `python` (or torchrun's own options) on every rank.

    AR3PO_TRAINER names another module to run in the trainer's place: a project that wires its own parts."""
    return ["-m", os.environ.get("AR3PO_TRAINER", TRAINER_MODULE), config, *overrides]


def torchrun_command(
    config: str, overrides: Sequence[str], *, nproc_per_node: int, rendezvous: Rendezvous
) -> list[str]:
    """One node's torchrun. `launch.node` starts it with SIGTERM ignored, and here it keeps that."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *rendezvous.torchrun_words(),
        f"--nproc-per-node={nproc_per_node}",
        "--max-restarts=0",
        "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT",
        *trainer_words(config, overrides),
    ]


def node_words(
    config: str,
    overrides: Sequence[str],
    *,
    nproc_per_node: int,
    gpus_per_node: int,
    stopped_exit_code: int = 0,
    workdir: str = "",
) -> list[str]:
    """What follows `python -m megatron_ar3po.launch.node`, run once on every node."""
    return [
        *([f"--workdir={workdir}"] if workdir else []),
        f"--nproc-per-node={nproc_per_node}",
        f"--gpus-per-node={gpus_per_node}",
        f"--stopped-exit-code={stopped_exit_code}",
        config,
        *overrides,
    ]

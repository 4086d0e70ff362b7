"""`python tests/harness/nodes.py NODES RANKS CONFIG WORDS...`: one torchrun for each node, all on this machine. The
nodes have the loopback addresses 127.0.0.2, 127.0.0.3, ...: what listens on one is not reached at another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def main() -> int:
    nodes, ranks, *arguments = sys.argv[1:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *(f"--nnodes={nodes}", f"--node-rank={node}", f"--nproc-per-node={ranks}"),
                *("--master-addr=127.0.0.2", f"--master-port={port}"),
                *("-m", "megatron_ar3po.train", *arguments),
            ],
            env={**os.environ, "AR3PO_NODE_ADDRESS": f"127.0.0.{2 + node}"},
        )
        for node in range(int(nodes))
    ]
    return max(agent.wait() for agent in agents)


if __name__ == "__main__":
    sys.exit(main())

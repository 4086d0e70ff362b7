"""One rank of the all-reduce that `network_check` runs over all nodes of a job before the trainer starts.

    RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=node1 MASTER_PORT=29400 python -m megatron_ar3po.launch.all_reduce

NCCL where there are GPUs, gloo else. Rank 0 prints one line of JSON. Imports torch, and nothing of this package that
does.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import socket
import sys
import time

_ROUNDS = 5
_NAME_BYTES = 64


def measure(num_bytes: int) -> dict[str, object]:
    """Seconds of one all-reduce (the median), and by how much each node's clock is ahead of rank 0's. A sum that is
    not the number of ranks is an error: a network that answers can still be wrong."""
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = dist.get_world_size()
    ahead = _clocks_ahead()
    seconds = []
    for _ in range(_ROUNDS + 1):  # the first one connects
        tensor = torch.ones(num_bytes // 4, device=device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if not bool((tensor == world).all()):
            raise RuntimeError(
                f"an all-reduce of ones over {world} ranks is not {world} everywhere"
            )
    return {
        "seconds": sorted(seconds[1:])[_ROUNDS // 2],
        "num_bytes": num_bytes,
        "num_ranks": world,
        "backend": "nccl" if device == "cuda" else "gloo",
        "clocks_ahead_s": ahead,
    }


def _clocks_ahead() -> dict[str, float]:
    """Seconds by node. Read by all behind one barrier, so that they differ by its end's spread (milliseconds) at most
    where the clocks agree."""
    import torch
    import torch.distributed as dist

    name = os.environ.get("SLURMD_NODENAME", socket.gethostname()).encode()[:_NAME_BYTES]
    mine = torch.zeros(_NAME_BYTES + 1, dtype=torch.float64)
    mine[: len(name)] = torch.tensor(list(name), dtype=torch.float64)
    for _ in range(2):
        dist.all_reduce(torch.zeros(1))
    mine[-1] = time.time()
    all_of_them = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, mine)
    first = float(all_of_them[0][-1])
    names = [bytes(int(x) for x in row[:-1] if x).decode("utf-8", "replace") for row in all_of_them]
    clocks = zip(names, all_of_them, strict=True)
    return {node: float(row[-1]) - first for node, row in reversed(list(clocks))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m megatron_ar3po.launch.all_reduce")
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--meet-s", type=float, default=600, help="how long the nodes may take")
    args = parser.parse_args()
    from megatron_ar3po.platform.process_guard import die_with_parent

    die_with_parent()
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=args.meet_s))
    print("met", flush=True)
    measured = measure(args.mib * 2**20)
    if dist.get_rank() == 0:
        print(json.dumps(measured), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())

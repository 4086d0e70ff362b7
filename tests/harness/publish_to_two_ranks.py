"""One real server of two ranks, fed by a real actor of two: started by torchrun with two processes.

    torchrun --nproc-per-node 2 tests/harness/publish_to_two_ranks.py MODEL FOLDER

Writes FOLDER/found.json; tests/e2e/test_publish_to_two_ranks.py says what must be in it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from harness.publish_stage import SpoilingTransport, Stage

from megatron_ar3po.interfaces import WeightPublishError

SPOILT = "model.layers.1.mlp.up_proj.weight"


def publish_with_a_spoilt_handle(stage: Stage, *, by_rank: int, row: int) -> str:
    """Rank `by_rank` changes one element in row `row` of what it hands over; what the checksums say of it."""
    transport: Any = stage.transports["tensor"]
    if stage.ranks.layout.rank == by_rank:
        transport = SpoilingTransport(transport, SPOILT, (row, 0))
    try:
        stage.publish(stage.actor, transport, verify=True)
    except WeightPublishError as error:
        return str(error)
    return ""


def main() -> None:
    model, folder = sys.argv[1], Path(sys.argv[2])
    cores = sorted(os.sched_getaffinity(0))
    os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = f"{cores[0]}|{cores[-1]}"
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        stage = Stage(stack, model, folder, bucket_bytes=200_000, vocab_size=20)
        with (
            torch.no_grad()
        ):  # not those that the server was started with; the same copies on both ranks
            torch.manual_seed(7)
            for parameter in stage.actor.policy.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        stage.poison()
        found["after poison"] = stage.largest_difference(next(stage.versions) - 1)
        version = stage.publish(stage.actor, verify=True)
        found["after a publish"] = stage.largest_difference(version)
        rows = {
            n: len(x) for b in stage.actor.hf_buckets(1 << 30, on_every_rank=True) for n, x in b
        }
        last = rows[SPOILT] - 1
        for rank in (0, 1):
            for row in (0, last):
                found[f"rank {rank} spoils {'first' if row == 0 else 'last'}"] = (
                    publish_with_a_spoilt_handle(stage, by_rank=rank, row=row)
                )
        stage.poison()
        found["at last"] = stage.largest_difference(stage.publish(stage.actor, verify=True))
    if int(os.environ["RANK"]) == 0:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

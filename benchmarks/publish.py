"""What a publish to a running server costs: a fixed part, and a bandwidth held against plain memory copies.

    python benchmarks/publish.py [--rounds N]

One real SGLang server; four sizes are cut from the same weights (a server takes part of a model as well). The slope
of time over bytes is the bandwidth, what is left at zero bytes the fixed part. Two plain copies are the yardstick:
actor to shared memory, shared memory to server. Verification is off. Where there is a GPU the bytes travel as CUDA IPC
handles and the yardstick is the device's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.distributed.collectives import Ranks, start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.weight_sync.publisher import ServerPublisher
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.tensor_transport import TensorTransport

FRACTIONS = (0.125, 0.25, 0.5, 1.0)
BUCKET_BYTES = 64 * 1024 * 1024


class PartOfAnActor:
    """The first so many bytes of an actor's weights."""

    def __init__(self, actor: MegatronActor, max_bytes: int) -> None:
        self._actor, self._max_bytes = actor, max_bytes

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        left = self._max_bytes
        for bucket in self._actor.hf_buckets(max_bytes, on_every_rank=on_every_rank):
            if left <= 0:
                return
            left -= sum(x.nbytes for _, x in bucket)
            yield bucket


def write_model(folder: Path) -> int:
    ensure_torchvision_schemas()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=1024,
        num_hidden_layers=8,
        intermediate_size=2816,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=8192,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.nbytes for p in model.parameters())


def best_of(rounds: int, action: object) -> float:
    assert callable(action)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(
    folder: Path, total: int, rounds: int, dtype: Literal["float32", "bfloat16"] = "float32"
) -> list[tuple[float, float, float]]:
    """(bytes, seconds to publish them, seconds of two plain copies) per size; `total` bytes lie in `folder`."""
    server = SglangServer(
        ServersConfig(),
        ServerPlacement(name="bench"),
        model_path=str(folder),
        dtype=dtype,
        is_deterministic=False,
        log_dir=folder,
    )
    server.start()
    try:
        actor = MegatronActor(
            Config(model=ModelConfig(path=str(folder), dtype=dtype), actor=ActorConfig()),
            ParallelLayout(),
        )
        ranks = Ranks(ParallelLayout(), 600.0)
        transport = TensorTransport(ranks)
        server.wait_ready()
        rows = []
        for fraction in FRACTIONS:
            publisher = ServerPublisher(
                actor=PartOfAnActor(actor, int(total * fraction)),  # type: ignore[arg-type]
                ranks=ranks,
                servers=lambda: [Receiver(server.url)],
                config=WeightSyncConfig(bucket_bytes=BUCKET_BYTES),
                transport=transport,
            )
            sent = int(publisher.publish(1)["weight_sync/bytes"].value)
            seconds = best_of(rounds, lambda p=publisher: p.publish(1))
            rows.append((sent, seconds, best_of(rounds, two_copies(sent))))
        return rows
    finally:
        server.stop()


def two_copies(num_bytes: int) -> object:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first, second, third = (
        torch.ones(num_bytes, dtype=torch.uint8, device=device) for _ in range(3)
    )
    return lambda: (second.copy_(first), third.copy_(second))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many counts")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    start_process_group(600.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), write_model(Path(folder)), rounds)
    show(rows)


def show(rows: Sequence[tuple[float, float, float]]) -> None:
    table = Table(title="Publishing to one running server")
    for column in ("MB", "publish", "two plain copies"):
        table.add_column(column, justify="right")
    for num_bytes, published, copied in rows:
        table.add_row(
            f"{num_bytes / 1e6:.0f}", f"{published * 1e3:.0f} ms", f"{copied * 1e3:.0f} ms"
        )
    sizes, published, copied = (np.array(column) for column in zip(*rows, strict=True))
    slope, fixed = np.polyfit(sizes, published, 1)
    plain, _ = np.polyfit(sizes, copied, 1)
    console = Console()
    console.print(table)
    console.print(
        f"fixed part {fixed * 1e3:.0f} ms; bandwidth {1e-9 / slope:.2f} GB/s, two plain copies "
        f"{1e-9 / plain:.2f} GB/s: ratio {plain / slope:.2f} (target >= 0.5)"
    )


if __name__ == "__main__":
    main()

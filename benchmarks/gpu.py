"""On a GPU: model FLOPs utilisation of a train step, and GB/s of a publish, for a 1B-class model in bf16.

    python benchmarks/gpu.py [--peak-tflops X]

A step's FLOPs are 6 per parameter and token and, for causal attention, 6 * layers * hidden * length per token;
recompute is not counted. The peak is the device's dense bf16 figure. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import publish
import torch
from train_step import Size, batch_of, seconds, write_model

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.types import MiniBatch

ONE_B = Size(2048, 16, 8192, 128_256, sequences=16, tokens=480, micro_batches=2, target=0.0)
ROUNDS = 10
# Dense bf16, from the data sheets.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}


def peak_of(device: str) -> float:
    for name, tflops in PEAK_TFLOPS.items():
        if name in device:
            return tflops
    raise SystemExit(f"the peak of {device} is not known here: pass --peak-tflops")


def train_seconds(actor: MegatronActor, mini: MiniBatch) -> float:
    def update() -> None:
        actor.update(mini)
        torch.cuda.synchronize()

    update()
    return statistics.median(seconds(update) for _ in range(ROUNDS))


def flops(parameters: int, lengths: list[int]) -> float:
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    return 6.0 * parameters * tokens + 6.0 * ONE_B.layers * ONE_B.hidden * squares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: utilisation and publish GB/s are not measured")
        return
    device = torch.cuda.get_device_name()
    peak = arguments.peak_tflops or peak_of(device)
    start_process_group(600.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = write_model(ONE_B, folder)
        config = Config(
            model=ModelConfig(path=name, dtype="bfloat16"), actor=ActorConfig(learning_rate=1e-6)
        )
        actor = MegatronActor(config, ParallelLayout())
        batch = actor.compute_logprobs(batch_of(ONE_B))
        lengths = [int(n) for m in batch.micro_batches for n in m.cu_seqlens.diff()]
        took = train_seconds(actor, batch.mini_batches[0])
        used = flops(parameters, lengths) / took / 1e12
        print(
            f"{device}: {parameters / 1e9:.2f} B parameters, {sum(lengths)} tokens, {took * 1e3:.0f} ms a step: "
            f"{used:.0f} TFLOP/s, {used / peak:.1%} of {peak:.0f}; {actor.policy.kernels.describe()}"
        )
        del actor, batch
        torch.cuda.empty_cache()
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        publish.show(publish.measure(folder, 2 * parameters, 5, "bfloat16"))


if __name__ == "__main__":
    main()

"""What accelerators do, by their makers' figures, and how much of it a run gets: the stated efficiencies.

Peaks are those of the data sheets for dense bfloat16. An efficiency is an assumption, not a measurement; each is a
word of `ar3po plan` (`--train-efficiency 0.35`). `CPU_THREAD` is one thread of the machine that docs/performance.md
was measured on, in float32; its figures are parts that were measured there, and its efficiencies are 1. It is what the
formulas are held to runs with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Per GPU. Rates are bytes and operations a second."""

    name: str
    memory_gib: float  # that a process finds
    flops: float
    memory_rate: float
    link_rate: float  # to another GPU of the node, one way
    network_rate: float  # to another node, one way
    host_rate: float  # to host memory, one way
    train_efficiency: float = 0.40  # of the peak, forward and backward
    prefill_efficiency: float = 0.50
    decode_efficiency: float = 0.60  # of the memory rate
    move_efficiency: float = 0.70  # of link, network and host rates
    decode_factor: float = (
        1.0  # of a decode iteration, for attention and sampling beside its products
    )
    deterministic_factor: float = 1.0  # and for run.deterministic; on a GPU not known
    iteration_s: float = 2e-3  # the server's own, for one decode iteration
    sequence_s: float = 1e-5  # and for each sequence in it
    layer_s: float = 2e-5  # two all-reduces of one token, where a server has several GPUs
    request_s: float = 5e-4  # client and server, for a response
    micro_batch_s: float = 2e-2  # launches of a micro-batch, forward and backward
    publish_s: float = 0.5  # requests of a publish, whatever its size
    bucket_s: float = 0.05  # and for each bucket
    turn_s: float = 0.5  # requests of a step's changes of hands
    ledger_s: float = 0.05  # rows and the servers' counters, in a rollout
    step_s: float = 0.2  # batch, metrics, what else a step does


GPUS = {
    device.name: device
    for device in (
        Device(
            name="a100",
            memory_gib=79,
            flops=312e12,
            memory_rate=2.04e12,
            link_rate=300e9,
            network_rate=25e9,
            host_rate=32e9,
        ),
        Device(
            name="h100",
            memory_gib=79,
            flops=989e12,
            memory_rate=3.35e12,
            link_rate=450e9,
            network_rate=50e9,
            host_rate=64e9,
        ),
        Device(
            name="h200",
            memory_gib=139,
            flops=989e12,
            memory_rate=4.8e12,
            link_rate=450e9,
            network_rate=50e9,
            host_rate=64e9,
        ),
        Device(
            name="b200",
            memory_gib=178,
            flops=2250e12,
            memory_rate=8.0e12,
            link_rate=900e9,
            network_rate=50e9,
            host_rate=64e9,
        ),
    )
}

# docs/performance.md: products at 50 GFLOP/s; of a server's time they are 62%, 49% with run.deterministic; a publish at
# 2.4 GB/s and 42 ms. A GRPO step of tiny_sum there: 42 ms of HTTP for 128 responses, 32 ms of turns,
# 21 ms of ledger, 42 ms a decode iteration.
CPU_THREAD = Device(
    name="cpu",
    memory_gib=16,
    flops=50e9,
    memory_rate=10e9,
    link_rate=2.4e9,
    network_rate=1e9,
    host_rate=7e9,
    train_efficiency=1.0,
    prefill_efficiency=1.0,
    decode_efficiency=1.0,
    move_efficiency=1.0,
    decode_factor=1 / 0.62,
    deterministic_factor=0.62 / 0.49,
    iteration_s=5e-3,
    sequence_s=3e-4,
    layer_s=0.0,
    request_s=3.3e-4,
    micro_batch_s=5e-3,
    publish_s=4.2e-2,
    bucket_s=7e-3,
    turn_s=3.2e-2,
    ledger_s=2.1e-2,
    step_s=1e-2,
)

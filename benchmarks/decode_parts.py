"""What the stand-ins for a GPU cost in one decode iteration of a server on a CPU, beside its matrix products.

    python benchmarks/decode_parts.py [--sequences N] [--position P] [--rounds R]

The shapes of SmolLM2-135M in float32: 30 layers, 9 heads of 64, 3 of keys, 49,152 words. Each part is called as SGLang
calls it, layers and all; the figures are processor time of one iteration, the least of R. No server runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from megatron_ar3po.platform import batch_invariance
from megatron_ar3po.platform.sglang_cpu import apply_shims, murmur_hash32

LAYERS, HIDDEN, INTERMEDIATE, VOCAB = 30, 576, 1536, 49_152
HEADS, KEY_HEADS, HEAD_SIZE = 9, 3, 64
CONTEXT = 2048


def measure(action: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def make_products(num_sequences: int) -> list[tuple[Tensor, Tensor]]:
    """(input, weight) of every linear layer of an iteration; each layer has weights of its own."""
    attention = (HEADS + 2 * KEY_HEADS) * HEAD_SIZE
    shapes = [
        (HIDDEN, attention),
        (HEADS * HEAD_SIZE, HIDDEN),
        (HIDDEN, 2 * INTERMEDIATE),
        (INTERMEDIATE, HIDDEN),
    ]
    shapes = shapes * LAYERS + [(HIDDEN, VOCAB)]
    return [(torch.randn(num_sequences, k), torch.randn(n, k).T) for k, n in shapes]


def make_attention(num_sequences: int, position: int) -> dict[str, Callable[[], object]]:
    """One decode call of each layer: SGLang's own loop over sequences, and what stands in for it."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    from megatron_ar3po.platform import sglang_cpu_attention as ours

    seq_lens = position - torch.arange(num_sequences) % 8  # answers that did not begin together
    slots = torch.arange(num_sequences * CONTEXT).view(num_sequences, CONTEXT)
    caches = [
        [torch.randn(num_sequences * CONTEXT, KEY_HEADS, HEAD_SIZE) for _ in "kv"]
        for _ in range(LAYERS)
    ]
    query = torch.randn(num_sequences, HEADS, HEAD_SIZE)
    output = torch.empty_like(query)

    def decode(kind: type[TorchNativeAttnBackend]) -> Callable[[], object]:
        backend = object.__new__(kind)  # without a model; the method reads nothing of it
        return lambda: [
            backend._run_sdpa_forward_decode(
                query, output, keys, values, slots, torch.arange(num_sequences), seq_lens,
                scaling=HEAD_SIZE**-0.5, enable_gqa=True, causal=False,
            )
            for keys, values in caches
        ]  # fmt: skip

    return {
        "attention, SGLang's loop": decode(TorchNativeAttnBackend),
        "attention, one call a batch": decode(ours.BatchedTorchNativeAttention),
        "attention, batch-invariant": decode(ours.BatchInvariantAttention),
    }


def make_sampling(num_sequences: int, position: int) -> dict[str, Callable[[], object]]:
    from sglang.srt.layers.sampler import sampling_from_probs_torch

    logits = torch.randn(num_sequences, VOCAB)
    probs = torch.softmax(logits, -1)
    seeds = torch.arange(num_sequences)
    positions = torch.full((num_sequences,), position)
    columns = torch.arange(VOCAB)
    return {
        "softmax and log-probs": lambda: (torch.softmax(logits, -1), torch.log_softmax(logits, -1)),
        "sampling with seeds": lambda: sampling_from_probs_torch(probs, seeds, positions),
        "of it the hash": lambda: murmur_hash32(seeds, positions, columns),
        "sampling without": lambda: sampling_from_probs_torch(probs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--position", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    apply_shims(seeded=False)  # our products are called by name: the plain ones stay beside them
    products = make_products(args.sequences)
    parts: dict[str, Callable[[], object]] = {
        "matrix products": lambda: [torch.mm(x, w) for x, w in products],
        "matrix products, batch-invariant": lambda: [
            batch_invariance.mm(x, w) for x, w in products
        ],
        **make_attention(args.sequences, args.position),
        **make_sampling(args.sequences, args.position),
    }
    with torch.no_grad():
        seconds = {name: measure(action, args.rounds) for name, action in parts.items()}
    table = Table(title=f"One iteration: {args.sequences} sequences at position {args.position}")
    for column in ("part", "ms", "of the products"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, spent in seconds.items():
        table.add_row(name, f"{spent * 1e3:.1f}", f"{spent / seconds['matrix products']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

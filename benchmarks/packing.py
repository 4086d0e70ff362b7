"""Packed against padded batches on the lengths of a real run, as a ratio of response tokens per second.

    AR3PO_TEST_DATA=FOLDER python benchmarks/packing.py [--rounds N]

Lengths are those of FOLDER/verifier/responses.jsonl (four characters a token); without the folder, of a log-normal
with the same spread. The padded batch holds the same sequences, each filled up to the longest of its micro-batch: what
a trainer without packing computes. Both go through the same actor, so the ratio is padding alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import torch
from train_step import Size, pack, seconds, write_model

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.types import MiniBatch, TrainingBatch

SEQUENCES, PER_MICRO_BATCH, LONGEST = 32, 16, 500
MODEL = Size(256, 2, 704, 1024, SEQUENCES, 0, 0, 0.0)


def real_lengths() -> tuple[list[int], str]:
    path = Path(os.environ.get("AR3PO_TEST_DATA", "")) / "verifier" / "responses.jsonl"
    generator = torch.Generator().manual_seed(0)
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            every = [len(json.loads(line)["response"]) // 4 for line in file]
        chosen = torch.randperm(len(every), generator=generator)[:SEQUENCES].tolist()
        lengths, source = [every[i] for i in chosen], str(path)
    else:
        spread = torch.randn(SEQUENCES, generator=generator) * 0.6
        lengths, source = (150 * spread.exp()).int().tolist(), "log-normal, median 150"
    return [min(max(n, 8), LONGEST) for n in lengths], source


def mini_batch(lengths: list[int], padded: bool) -> MiniBatch:
    generator = torch.Generator().manual_seed(0)
    micro = []
    for start in range(0, len(lengths), PER_MICRO_BATCH):
        part = lengths[start : start + PER_MICRO_BATCH]
        held = [max(part)] * len(part) if padded else part
        micro.append(pack(held, MODEL.vocab, sum(held), generator))
    return MiniBatch(micro_batches=tuple(micro), num_units=1, num_sequences=len(lengths))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    start_process_group(600.0)
    lengths, source = real_lengths()
    with tempfile.TemporaryDirectory() as folder:
        write_model(MODEL, Path(folder))
        actor = MegatronActor(
            Config(model=ModelConfig(path=folder), actor=ActorConfig()), ParallelLayout()
        )
        batches = {padded: mini_batch(lengths, padded) for padded in (False, True)}
        ratios = []
        for _ in range(rounds + 1):
            took = {}
            for padded, batch in batches.items():
                filled = actor.compute_logprobs(_as_step(batch)).mini_batches[0]
                took[padded] = seconds(lambda b=filled: actor.update(b))
            ratios.append(took[True] / took[False])
    tokens = {padded: sum(m.num_tokens for m in b.micro_batches) for padded, b in batches.items()}
    print(
        f"lengths: {source}; {len(lengths)} sequences, mean {statistics.mean(lengths):.0f}, longest {max(lengths)}\n"
        f"tokens computed: packed {tokens[False]}, padded {tokens[True]}\n"
        f"packed is {statistics.median(ratios[1:]):.2f} times as fast as padded (target >= 1.5)"
    )


def _as_step(batch: MiniBatch) -> TrainingBatch:
    return TrainingBatch(mini_batches=(batch,), num_samples=batch.num_sequences, num_tokens=0)


if __name__ == "__main__":
    main()

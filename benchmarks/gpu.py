"""On a GPU: model FLOPs utilisation of a train step at several lengths, GB/s of a publish; a 1.5B model in bf16.

    python benchmarks/gpu.py [--peak-tflops X]

Measured by the functions of tools/prove_gpu.py. A step's FLOPs are 6 per parameter and token and, for causal attention,
6 * layers * hidden * length per token; recompute is not counted. The peak is the device's dense bf16 figure. Without a
GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

from prove.machine_checks import measure_train_step, peak_tflops
from prove.server_checks import publish_speed
from prove.stand import Stand

# 16,384 tokens a step, in micro-batches of two sequences.
LENGTHS = ((1024,) * 16, (4096,) * 4, (8192,) * 2)
ROUNDS = 10


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
    peak = arguments.peak_tflops or peak_tflops(device)
    if not peak:
        raise SystemExit(f"the peak of {device} is not known here: pass --peak-tflops")
    with tempfile.TemporaryDirectory() as name:
        stand = Stand("cuda", Path(name), Path(name))
        for lengths in LENGTHS:
            one = replace(stand, lengths=lengths)
            found = measure_train_step(one, one.whole, rounds=ROUNDS)
            print(
                f"{device}: {found['parameters'] / 1e9:.2f} B parameters, {len(lengths)} x {lengths[0]} tokens, "
                f"{found['seconds'] * 1e3:.0f} ms a step: {found['tflops']:.0f} TFLOP/s, "
                f"{found['tflops'] / peak:.1%} of {peak:.0f}; peak {found['peak_gib']:.1f} GiB"
            )
        torch.cuda.empty_cache()
        print(f"publish: {publish_speed(stand).figure}")


if __name__ == "__main__":
    main()

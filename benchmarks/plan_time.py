"""The shares of a step's phases that `ar3po plan` reckons, beside those of a run that has been, on a CPU.

    python benchmarks/plan_time.py [RUN ...] [--prompt-tokens N]

RUN is a folder of a run of one rank with one thread (OMP_NUM_THREADS=1); without one, 15 steps of tiny_sum are run.
Pass rates and lengths are those of its ledger, the device is one thread of the machine of docs/performance.md
(`reporting.devices.CPU_THREAD`). The first step, which warms up, is left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from megatron_ar3po.config.load import load_config
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.reporting.devices import CPU_THREAD
from megatron_ar3po.reporting.memory_estimate import GIB, estimate_memory
from megatron_ar3po.reporting.pass_rates import read_pass_rates
from megatron_ar3po.reporting.time_estimate import Lengths, Setting, StepForecast, forecast_step
from megatron_ar3po.run.folder_format import CONFIG_FILE
from megatron_ar3po.wiring.layout_checks import layout_of_job

ROOT = Path(__file__).resolve().parents[1]
PHASES = {
    "rollout": "time/rollout_s",
    "train": "time/train_s",
    "publish": "time/publish_s",
    "turns": "time/step/turns_s",
}


def forecast_of(run: Path, prompt_tokens: float) -> StepForecast:
    config = load_config([run / CONFIG_FILE], [])
    shape, layout = read_policy_shape(config.model.path), layout_of_job(config, world_size=1)
    memory = estimate_memory(config, shape, layout, gpus_per_node=1, gpu_bytes=16 * GIB)
    rates = read_pass_rates(str(run))
    assert rates is not None and rates.mean_tokens is not None
    setting = Setting(
        config=config,
        shape=shape,
        layout=layout,
        gpus_per_node=1,
        memory=memory,
        device=CPU_THREAD,
    )
    return forecast_step(setting, rates, Lengths(prompt=prompt_tokens, response=rates.mean_tokens))


def compare(run: Path, prompt_tokens: float) -> None:
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["step"] > 1]

    def measure(name: str) -> float:
        return sum(row.get(name, 0.0) for row in rows) / len(rows)

    step, planned = measure("time/step_s"), forecast_of(run, prompt_tokens)
    print(f"{run.name}: {len(rows)} steps of {step:.2f} s, reckoned {planned.total_s:.2f} s")
    print(f"  {'phase':<9}{'measured':>9}{'reckoned':>9}{'points':>8}")
    for phase, name in PHASES.items():
        real, reckoned = measure(name) / step, planned.seconds[phase] / planned.total_s
        print(f"  {phase:<9}{real:>9.1%}{reckoned:>9.1%}{100 * (reckoned - real):>+8.1f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--prompt-tokens", type=float, default=8.0, help="mean of a prompt [8]")
    arguments = parser.parse_args(argv)
    for run in arguments.runs:
        compare(run, arguments.prompt_tokens)
    if not arguments.runs:
        with TemporaryDirectory() as folder:
            compare(train_tiny_sum(Path(folder)), arguments.prompt_tokens)


def train_tiny_sum(folder: Path) -> Path:
    run = folder / "tiny_sum"
    words = [f"run.dir={run}", "run.num_steps=15", "evaluation.path="]
    subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.train", "examples/tiny_sum/config.yaml", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        timeout=1200,
        check=True,
    )
    return run


if __name__ == "__main__":
    main()

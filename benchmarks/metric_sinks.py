"""What it costs to log a step: its row in metrics.jsonl, and the places that show it, as a share of a step.

    python benchmarks/metric_sinks.py RUN [--rows N]

RUN is the folder of a run that has ended, as short in its steps as steps can be (examples/tiny_sum): its rows are
logged once more, one every tenth of a second, with no place to show them, with each, and with all. Two costs: how long
the loop waits (`Metrics.flush`), and the processor time of all threads and processes that this takes (this process and
its children), imports and the opening of a place left out. Both are set against the mean seconds of RUN's steps.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from megatron_ar3po.config.load import load_config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.records import Max
from megatron_ar3po.wiring.metric_sinks import make_sinks

TARGET_FRAC = 0.01
_EVERY_S = 0.1
_WARM_UP_ROWS = 3
_PLACES = {
    "metrics.jsonl alone": ["observability.tensorboard=false"],
    "TensorBoard": [],
    "W&B, offline": ["observability.tensorboard=false", "observability.wandb=offline"],
    "MLflow, local store": ["observability.tensorboard=false", "observability.mlflow=STORE"],
    "all three": ["observability.wandb=offline", "observability.mlflow=STORE"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--rows", type=int, default=100)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["step"] > 0]
    step_s = sum(row["time/wall_s"] for row in rows) / len(rows)
    print(f"a step of {arguments.run}: {step_s:.2f} s, {max(map(len, rows))} metrics; "
          f"{arguments.rows} rows; load average {os.getloadavg()[0]:.0f}")  # fmt: skip
    for name, words in _PLACES.items():
        flush_s, processor_s = measure(words, rows, arguments.rows)
        print(
            f"{name:22} the loop waits {1000 * flush_s:6.2f} ms ({flush_s / step_s:.2%} of a step); "
            f"processor time {1000 * processor_s:6.2f} ms ({processor_s / step_s:.2%}; target {TARGET_FRAC:.0%})"
        )


def measure(words: list[str], rows: list[dict[str, Any]], num_rows: int) -> tuple[float, float]:
    """Seconds of a row: that the loop waits, and of all processors."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        words = [word.replace("STORE", f"sqlite:///{folder}/mlflow.db") for word in words]
        config = load_config([], [f"run.dir={folder}/run", *words])
        config.run.path.mkdir()
        sinks = make_sinks(config, stack, last_step=-1)
        metrics = Metrics(_one_rank(), config.run.path, sinks=sinks)
        for step in range(_WARM_UP_ROWS):
            _log(metrics, step, rows[step % len(rows)])
        _wait_until_shown(config.run.path, _WARM_UP_ROWS - 1, config)
        waited_s, began_s = 0.0, _processor_s()
        for step in range(_WARM_UP_ROWS, _WARM_UP_ROWS + num_rows):
            began = time.perf_counter()
            _log(metrics, step, rows[step % len(rows)])
            waited_s += time.perf_counter() - began
            time.sleep(_EVERY_S)
        _wait_until_shown(config.run.path, _WARM_UP_ROWS + num_rows - 1, config)
        return waited_s / num_rows, (_processor_s() - began_s) / num_rows


def _log(metrics: Metrics, step: int, row: dict[str, Any]) -> None:
    metrics.add({name: Max(x) for name, x in row.items() if name != "step" and x is not None})
    metrics.flush(step)


def _one_rank() -> Any:
    return SimpleNamespace(
        layout=ParallelLayout(),
        watch=RankWatch(rank=0, world_size=1),
        is_leader=True,
        is_first=True,
        gather=lambda value: [value],
    )


def _processor_s() -> float:
    process = psutil.Process()
    everyone = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in everyone)


def _wait_until_shown(folder: Path, step: int, config: Any) -> None:
    """In every place that was asked for."""
    options = config.observability
    asked = options.tensorboard + (options.wandb != "off") + bool(options.mlflow)
    end = time.monotonic() + 300
    while asked:
        notes = folder / "sinks.json"
        sent = [n["sent"] for n in json.loads(notes.read_text()).values()] if notes.exists() else []
        if len(sent) == asked and min(sent) >= step:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"not all places have row {step}: {sent}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()

"""AR3PO, GRPO and DAPO of this project against TRL's GRPOTrainer: same model, prompts, batch and machine, in one run.

    python benchmarks/against_trl.py [--seeds N] [--responses N] [--target P] [--learning-rate LR]

What reaching a pass@1 costs in responses, tokens and seconds of steps (start-up and evaluation apart), on
examples/tiny_sum; 16 prompts a step, GRPO and TRL with 8 responses each. For each seed the variants run one after the
other, TRL's last. TRL lies in an environment of its own (.cache/trl, made on the first run); it samples with
transformers' generate inside its process, this project from a SGLang server over HTTP.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from crosscheck.apart import installed_apart  # noqa: E402  # pyright: ignore[reportMissingImports]

from megatron_ar3po.comparison.curves import RunCurve, read_curve  # noqa: E402
from megatron_ar3po.comparison.experiment import Experiment, variant_named  # noqa: E402
from megatron_ar3po.comparison.process import preload  # noqa: E402
from megatron_ar3po.comparison.results import compare  # noqa: E402
from megatron_ar3po.comparison.runner import metrics_path, run_all  # noqa: E402
from megatron_ar3po.comparison.table import rows_of  # noqa: E402
from megatron_ar3po.observability.row_file import read_rows  # noqa: E402

CONFIG = ROOT / "examples/tiny_sum/config.yaml"
TASK = ROOT / ".cache/tiny_sum"
TRL_SCRIPT = ROOT / "benchmarks/apart/trl_grpo.py"
REQUIREMENTS = ROOT / "tests/crosscheck/trl_requirements.txt"
RUN_TIMEOUT_S = 1800
EVALUATE_EVERY = {"ar3po": 5, "grpo": 4, "dapo": 1, "trl_grpo": 4}  # steps: 400 to 500 responses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--responses", type=int, default=3000, help="of each run")
    parser.add_argument("--target", type=float, default=0.45)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    args = parser.parse_args()
    os.chdir(ROOT)  # model and prompts are named relative to it
    trl = installed_apart("trl", REQUIREMENTS)
    preload()
    curves: dict[str, list[RunCurve]] = {name: [] for name in EVALUATE_EVERY}
    steps: dict[str, list[float]] = {name: [] for name in EVALUATE_EVERY}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            paths = train_ours(args, seed, Path(folder))
            paths["trl_grpo"] = train_trl(args, seed, Path(folder), trl)
            for name, path in paths.items():
                curves[name].append(read_curve(path, args.responses))
                steps[name] += [r["time/step_s"] for r in read_rows(path) if r["step"] > 0]
    show(curves, steps, args)


def train_ours(args: argparse.Namespace, seed: int, out: Path) -> dict[str, Path]:
    experiment = Experiment(
        config=CONFIG,
        variants=tuple(
            variant_named(name, [f"evaluation.every_steps={EVALUATE_EVERY[name]}"])
            for name in ("ar3po", "grpo", "dapo")
        ),
        seeds=(seed,),
        common=(
            f"actor.learning_rate={args.learning_rate}",
            "actor.lr_warmup_steps=0",
            "evaluation.samples_per_prompt=1",
            "observability.tensorboard=false",
            "servers.sglang.disable_radix_cache=true",
        ),
        responses=args.responses,
        timeout_s=RUN_TIMEOUT_S,
    )
    failures = run_all(experiment, out)
    assert not failures, failures
    return {v.name: metrics_path(out, v, seed) for v in experiment.variants}


def train_trl(args: argparse.Namespace, seed: int, out: Path, trl: Path) -> Path:
    path = out / f"trl-s{seed}.jsonl"
    options = {
        "model": str(TASK / "model"),
        "train": str(TASK / "train.jsonl"),
        "heldout": str(TASK / "heldout.jsonl"),
        "out": str(path),
        "seed": seed,
        "responses": args.responses,
        "max_steps": 10_000,
        "evaluate_every_steps": EVALUATE_EVERY["trl_grpo"],
        "learning_rate": args.learning_rate,
        "prompts_per_step": 16,
        "responses_per_prompt": 8,
        "max_response_tokens": 6,
    }
    done = subprocess.run(
        [sys.executable, str(TRL_SCRIPT), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": f"{trl}:{ROOT}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def show(
    curves: dict[str, list[RunCurve]], steps: dict[str, list[float]], args: argparse.Namespace
) -> None:
    comparison = compare(curves, seeds=range(args.seeds), target=args.target)
    table = Table(
        title=f"{args.seeds} seed(s), learning rate {args.learning_rate:g}; load {os.getloadavg()[0]:.1f}"
    )
    table.add_column("")
    for name in curves:
        table.add_column(name, justify="right")
    for label, cells in rows_of(comparison):
        if "to pass@1" in label or label.startswith("pass@1") or label.endswith("at the end"):
            table.add_row(label, *cells)
    table.add_row("seconds a step", *(f"{sum(s) / len(s):.3f}" for s in steps.values()))
    spent = [
        (sum(r.points[-1].seconds for r in c), sum(r.points[-1].responses for r in c))
        for c in curves.values()
    ]
    table.add_row("ms a response", *(f"{1000 * s / n:.1f}" for s, n in spent))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

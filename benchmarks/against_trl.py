"""AR3PO, GRPO, DAPO and history of this project against TRL's GRPOTrainer: same model, prompts and machine, in one run.

    python benchmarks/against_trl.py [--seeds N] [--responses N] [--target P] [--learning-rate LR] [--variants V ...]
    python benchmarks/against_trl.py --steps N [--task tiny_sum|smollm2] [--seeds N] [section.option=value ...]

What reaching a pass@1 costs in responses, tokens and seconds of steps (start-up and evaluation apart), on
examples/tiny_sum; 16 prompts a step, GRPO and TRL with 8 responses each. `history`, `ar3po_2x2` and `trl_grpo_6x4` have
the number of prompts and responses that did best in docs/comparison.md, TRL's those of our GRPO. For each seed the
variants run one after the other, TRL's last. TRL lies in an environment of its own (.cache/trl, made on the first run);
it samples with transformers' generate inside its process, this project from a SGLang server over HTTP.

With --steps: what a step of GRPO costs at equal responses, wall and CPU of all processes, nothing evaluated or saved;
rounds alternate, each in processes of its own, and the first steps are left out. smollm2 is SmolLM2-135M
(tools/make_smollm2.py), 8 prompts x 4 responses x 16 tokens, with a reward that trains in every step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
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
OURS: dict[str, tuple[str, ...]] = {  # further words
    "ar3po": (),
    "grpo": (),
    "dapo": (),
    "history": ("rollout.prompts_per_step=24",),
    "ar3po_2x2": (
        "algorithm.name=ar3po",
        "rollout.prompts_per_step=12",
        "rollout.responses_per_stage=2",
    ),
}
TRL = {"trl_grpo": (16, 8), "trl_grpo_6x4": (6, 4)}  # prompts a step, responses of each
# TRL repeats no sampling to the bit either, and prompts of a few tokens have nothing to share.
AS_FAST_AS_TRL = ("run.deterministic=false", "servers.sglang.disable_radix_cache=true")
EVALUATE_EVERY = {  # steps: 400 to 500 responses
    "ar3po": 5,
    "grpo": 4,
    "dapo": 1,
    "history": 20,
    "ar3po_2x2": 13,
    "trl_grpo": 4,
    "trl_grpo_6x4": 20,
}


@dataclass(frozen=True, kw_only=True)
class StepTask:
    config: Path
    folder: Path
    prompts: int
    responses: int  # of each prompt
    tokens: int
    learning_rate: float
    warm_up_steps: int = 3  # left out
    words: tuple[str, ...] = ()
    rewards_parity: bool = False  # of the example's own reward many steps train nothing


STEP_TASKS = {
    "tiny_sum": StepTask(
        config=CONFIG,
        folder=TASK,
        prompts=16,
        responses=8,
        tokens=6,
        learning_rate=8e-4,
        words=AS_FAST_AS_TRL,
    ),
    "smollm2": StepTask(
        config=ROOT / "examples/smollm2_arithmetic/config.yaml",
        folder=ROOT / ".cache/smollm2_arithmetic",
        prompts=8,
        responses=4,
        tokens=16,
        learning_rate=5e-6,
        warm_up_steps=1,
        rewards_parity=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--responses", type=int, default=3000, help="of each run")
    parser.add_argument(
        "--variants", nargs="+", choices=OURS, default=list(OURS), help="of this project"
    )
    parser.add_argument("--target", type=float, default=0.45)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--steps", type=int, default=0, help="compare the cost of so many steps")
    parser.add_argument("--task", choices=STEP_TASKS, default="tiny_sum", help="with --steps")
    parser.add_argument("words", nargs="*", help="with --steps: options of this project's run")
    args = parser.parse_args()
    os.chdir(ROOT)  # model and prompts are named relative to it
    trl = installed_apart("trl", REQUIREMENTS)
    if args.steps:
        compare_steps(STEP_TASKS[args.task], args, trl)
        return
    preload()
    names = [*TRL, *args.variants]  # the first is what ratios are of
    curves: dict[str, list[RunCurve]] = {name: [] for name in names}
    steps: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            paths = train_ours(args, seed, Path(folder))
            paths |= {name: train_trl(name, args, seed, Path(folder), trl) for name in TRL}
            for name, path in paths.items():
                curves[name].append(read_curve(path, args.responses))
                steps[name] += [r["time/step_s"] for r in read_rows(path) if r["step"] > 0]
    show(curves, steps, args)


def train_ours(args: argparse.Namespace, seed: int, out: Path) -> dict[str, Path]:
    experiment = Experiment(
        config=CONFIG,
        variants=tuple(
            variant_named(name, [*OURS[name], f"evaluation.every_steps={EVALUATE_EVERY[name]}"])
            for name in args.variants
        ),
        seeds=(seed,),
        common=(
            f"actor.learning_rate={args.learning_rate}",
            "actor.lr_warmup_steps=0",
            "evaluation.samples_per_prompt=1",
            "observability.tensorboard=false",
            *AS_FAST_AS_TRL,
        ),
        responses=args.responses,
        timeout_s=RUN_TIMEOUT_S,
    )
    failures = run_all(experiment, out)
    assert not failures, failures
    return {v.name: metrics_path(out, v, seed) for v in experiment.variants}


def train_trl(name: str, args: argparse.Namespace, seed: int, out: Path, trl: Path) -> Path:
    path = out / f"{name}-s{seed}.jsonl"
    prompts, responses = TRL[name]
    options = {
        "model": str(TASK / "model"),
        "train": str(TASK / "train.jsonl"),
        "heldout": str(TASK / "heldout.jsonl"),
        "out": str(path),
        "seed": seed,
        "responses": args.responses,
        "max_steps": 10_000,
        "evaluate_every_steps": EVALUATE_EVERY[name],
        "learning_rate": args.learning_rate,
        "prompts_per_step": prompts,
        "responses_per_prompt": responses,
        "max_response_tokens": 6,
    }
    done = subprocess.run(
        [sys.executable, str(TRL_SCRIPT), json.dumps(options)],
        env=trl_environment(trl),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def trl_environment(trl: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{trl}:{ROOT}", "HF_HUB_OFFLINE": "1"}


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
        is_cost = "to pass@1" in label or "to the target" in label
        if is_cost or label.startswith("pass@1") or label.endswith("at the end"):
            table.add_row(label, *cells)
    table.add_row("seconds a step", *(f"{sum(s) / len(s):.3f}" for s in steps.values()))
    spent = [
        (sum(r.points[-1].seconds for r in c), sum(r.points[-1].responses for r in c))
        for c in curves.values()
    ]
    table.add_row("ms a response", *(f"{1000 * s / n:.1f}" for s, n in spent))
    Console(width=150).print(table)


def compare_steps(task: StepTask, args: argparse.Namespace, trl: Path) -> None:
    costs: dict[str, list[StepCost]] = {"grpo": [], "trl_grpo": []}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            run = Path(folder) / "run"
            words = [*words_of(task, seed, args.steps), f"run.dir={run}", *args.words]
            ours = [sys.executable, "-m", "megatron_ar3po.train", str(task.config), *words]
            costs["grpo"].append(
                measure_steps(ours, dict(os.environ), run / "metrics.jsonl", task, args.steps)
            )
            path = Path(folder) / "trl.jsonl"
            options = json.dumps(trl_options_of(task, seed, args.steps, path))
            theirs = [sys.executable, str(TRL_SCRIPT), options]
            costs["trl_grpo"].append(
                measure_steps(theirs, trl_environment(trl), path, task, args.steps)
            )
        print(f"round {seed}: " + "; ".join(f"{n} {c[-1]}" for n, c in costs.items()), flush=True)
    for what in ("wall_s", "cpu_s"):
        ratios = [
            getattr(a, what) / getattr(b, what)
            for a, b in zip(costs["grpo"], costs["trl_grpo"], strict=True)
        ]
        middle = [statistics.median(getattr(c, what) for c in each) for each in costs.values()]
        print(
            f"{what} a step: {middle[0]:.3f} and TRL's {middle[1]:.3f}; ratio {statistics.median(ratios):.2f} "
            f"(median of {len(ratios)} rounds; {min(ratios):.2f} to {max(ratios):.2f}); load {os.getloadavg()[0]:.1f}"
        )


def words_of(task: StepTask, seed: int, steps: int) -> list[str]:
    words = [
        f"run.seed={seed}",
        f"run.num_steps={steps}",
        "run.progress=plain",
        "algorithm.name=grpo",
        f"rollout.responses_per_stage={task.responses}",
        f"rollout.prompts_per_step={task.prompts}",
        f"rollout.max_response_tokens={task.tokens}",
        "rollout.extra_stop_token_ids=[]",
        f"actor.learning_rate={task.learning_rate}",
        "actor.lr_warmup_steps=0",
        "actor.lr_decay=constant",
        "evaluation.path=''",
        "checkpoint.every_steps=0",
        "observability.tensorboard=false",
        *task.words,
    ]
    if task.rewards_parity:
        words += ["rewards.verifier=benchmarks.apart.parity_reward:make_grader"]
        words += ["rewards.truncated=grade", "rewards.num_workers=1"]
    return words


def trl_options_of(task: StepTask, seed: int, steps: int, path: Path) -> dict[str, Any]:
    return {
        "model": str(task.folder / "model"),
        "train": str(task.folder / "train.jsonl"),
        "heldout": "",
        "out": str(path),
        "seed": seed,
        "responses": 0,
        "max_steps": steps,
        "evaluate_every_steps": 10**6,
        "learning_rate": task.learning_rate,
        "prompts_per_step": task.prompts,
        "responses_per_prompt": task.responses,
        "max_response_tokens": task.tokens,
        "rewards_parity": task.rewards_parity,
    }


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Of one step, the mean over those behind the first ones; of the process and all it has started."""

    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.wall_s:.3f} s wall, {self.cpu_s:.3f} s CPU a step"


def measure_steps(
    command: list[str], environment: dict[str, str], rows: Path, task: StepTask, steps: int
) -> StepCost:
    """From the row of the last warm-up step to the last row; a row is written when its step is done."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=ROOT)
        try:
            first = cost_when(process, rows, task.warm_up_steps)
            last = cost_when(process, rows, steps)
            process.wait(RUN_TIMEOUT_S)
        finally:
            process.kill()
        said.seek(0)
        assert first and last and process.returncode == 0, said.read()[-3000:].decode()
    count = steps - task.warm_up_steps
    return StepCost(wall_s=(last[0] - first[0]) / count, cpu_s=(last[1] - first[1]) / count)


def cost_when(
    process: subprocess.Popen[bytes], rows: Path, step: int
) -> tuple[float, float] | None:
    """(clock, CPU seconds of the process and its children) once the row of `step` is there; None if it ends before."""
    limit = time.monotonic() + RUN_TIMEOUT_S
    while process.poll() is None and time.monotonic() < limit:
        if rows.is_file() and rows.read_bytes().count(b"\n") > step:  # one is of step 0
            parent = psutil.Process(process.pid)
            times = [p.cpu_times() for p in (parent, *parent.children(recursive=True))]
            return time.monotonic(), sum(t.user + t.system for t in times)
        time.sleep(0.02)
    return None


if __name__ == "__main__":
    main()

"""SmolLM2-135M on few-shot arithmetic: pass@1 on held-out questions before and after training, over seeds.

    python benchmarks/smollm2_study.py [--seeds 3] [--minutes 60] [--threads 2] [--at-once 1] [--out runs/smollm2_study]

Each seed trains for so many minutes (examples/smollm2_arithmetic/study.yaml), `--at-once` of them side by side; then
each is evaluated beside the model it started from, paired by prompt. A seed that has been evaluated is not done again;
one that was interrupted goes on. The time of training counts from the start of the command, its servers' included.
Words behind the options go to the run: `actor.learning_rate=2e-5`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.comparison.statistics import Interval, t_interval

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = Path("examples/smollm2_arithmetic")
DATA = Path(".cache/smollm2_study")
EVALUATION_LIMIT_S = 1800.0
SLACK_S = 900.0  # a run past its time saves, and ends


@dataclass(frozen=True)
class Study:
    out: Path
    minutes: float
    threads: int
    words: tuple[str, ...]

    def folder(self, seed: int) -> Path:
        return self.out / f"seed_{seed}"

    def evaluate(self, seed: int) -> Mapping[str, Any]:
        """The result of `ar3po evaluate`, of the trained policy against the model it started from."""
        result = self._result(seed)
        if not result.is_file():
            self._evaluate(self.folder(seed), result.parent)
        return json.loads(result.read_text("utf-8"))

    def _result(self, seed: int) -> Path:
        return self.out / f"evaluated_{seed}" / "result.json"

    def train(self, seed: int) -> None:
        folder = self.folder(seed)
        if self._result(seed).is_file() or any(
            (folder / name).is_file() for name in ("DONE", "STOPPED")
        ):
            return
        words = [
            "train",
            *(str(EXAMPLE / name) for name in ("config.yaml", "study.yaml")),
            f"run.dir={folder}",
            f"run.seed={seed}",
            f"run.max_seconds={self.minutes * 60:g}",
            "run.resume=true",
            "run.progress=plain",
            *self.words,
        ]
        self._call(words, limit_s=self.minutes * 60 + SLACK_S)

    def _evaluate(self, folder: Path, out: Path) -> None:
        words = ["evaluate", str(folder), "--suite", str(EXAMPLE / "suite.yaml")]
        words += ["--against", str(DATA / "model"), "--out", str(out)]
        words += ["--store", str(self.out / "items")]
        words += ["--config", str(EXAMPLE / "config.yaml"), "--config", str(EXAMPLE / "study.yaml")]
        self._call(words, limit_s=EVALUATION_LIMIT_S)

    def _call(self, words: Sequence[str], *, limit_s: float) -> None:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "megatron_ar3po.cli", *words]
        print("$", *words, flush=True)
        subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=limit_s)


def make_data() -> None:
    command = [sys.executable, "tools/make_smollm2.py", "--out", str(DATA)]
    command += ["--num-train", "240", "--num-heldout", "99"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)


def tell(results: Mapping[int, Mapping[str, Any]]) -> str:
    """A table in Markdown: a row for each seed, and their mean with its interval over seeds."""
    lines = [
        "| seed | before | after | difference, paired by prompt | steps | responses |",
        "|---|---|---|---|---|---|",
    ]
    gains: list[float] = []
    for seed, result in results.items():
        after = result["sets"]["arithmetic"]
        before = result["against"]["sets"]["arithmetic"]
        change = result["against"]["differences"]["arithmetic"]["pass_at_1"]
        gains.append(change["difference"])
        run = last_row(Path(result["run"]))
        lines.append(
            f"| {seed} | {show(before['pass_at_1'], before['pass_at_1_interval'])} "
            f"| {show(after['pass_at_1'], after['pass_at_1_interval'])} "
            f"| {show(change['difference'], change['interval'], sign=True)} "
            f"| {run['step']} | {run.get('rollout/responses_total', 0):.0f} |"
        )
    mean = t_interval(gains)
    assert mean is not None
    lines.append(f"| mean | | | {show(mean.mean, _ends(mean), sign=True)} over seeds | | |")
    return "\n".join(lines)


def _ends(interval: Interval) -> list[float] | None:
    if interval.low is None or interval.high is None:
        return None
    return [interval.low, interval.high]


def show(value: float, ends: Sequence[float] | None, *, sign: bool = False) -> str:
    """
    >>> show(0.25, [0.125, 0.375]), show(0.25, None, sign=True)
    ('0.250 (0.125 to 0.375)', '+0.250')
    """
    form = "+.3f" if sign else ".3f"
    text = f"{value:{form}}"
    return text if ends is None else f"{text} ({ends[0]:{form}} to {ends[1]:{form}})"


def last_row(run: Path) -> Mapping[str, Any]:
    return json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each seed")
    parser.add_argument("--threads", type=int, default=2, help="of the trainer and of the server")
    parser.add_argument("--at-once", type=int, default=1, help="seeds that train side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2_study"))
    parser.add_argument("words", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    make_data()
    study = Study(arguments.out, arguments.minutes, arguments.threads, tuple(arguments.words))
    with ThreadPoolExecutor(arguments.at_once) as pool:
        list(pool.map(study.train, range(arguments.seeds)))
    results = {}
    for seed in range(arguments.seeds):
        results[seed] = {**study.evaluate(seed), "run": str(ROOT / study.folder(seed))}
        print(tell(results), flush=True)


if __name__ == "__main__":
    main()

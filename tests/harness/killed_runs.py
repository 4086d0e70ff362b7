"""Whole runs that are killed at a random moment and resumed until they are done, held against one that was not killed.
Each trial is a function of its number: who is killed, when, and with which options.

    PYTHONPATH=$PWD:$PWD/tests .venv/bin/python tests/harness/killed_runs.py FOLDER --trials 100

goes on from the first number that FOLDER/results.jsonl does not hold, so that a hundred need not end in one sitting.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from harness.trainer_runs import ROOT, Run, RunStarter

from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.sampling_cost import cost_of
from tools.compare_runs import compare_runs

NUM_STEPS = 12
PROMPTS_PER_STEP = 6
WORDS = (
    f"run.num_steps={NUM_STEPS}",
    f"rollout.prompts_per_step={PROMPTS_PER_STEP}",
    "checkpoint.every_steps=2",
    "evaluation.every_steps=4",
    "evaluation.max_prompts=4",
    f"debug.dump_steps={[*range(1, NUM_STEPS + 1)]}",
    "rewards.verifier=fakes.graders:last_number",
    "actor.learning_rate=1e-3",
    "actor.lr_warmup_steps=0",
)
VICTIMS = ("group", "rank", "server", "router", "worker")
_MARKS = {
    "rank": "megatron_ar3po.train",
    "server": "megatron_ar3po.platform.sglang_launch",
    "router": "megatron_ar3po.servers.router_process",
    "worker": "megatron_ar3po.rewards.worker",
}
_LOSS = re.compile(r"\b(lost|died|dead|gone|killed|ended|again|SIGKILL)\b")
_MAX_STARTS = 5
_LIMIT_S = 3600.0  # of one start, also on a machine that is busy with other work


@dataclass(frozen=True)
class Trial:
    number: int
    victim: str
    deterministic: bool
    after_step: int  # -1: while the run starts
    delay: float  # of the kill, as a share of a step, or of the start
    is_stopped_first: bool

    @classmethod
    def of(cls, number: int) -> Trial:
        draw = random.Random(number)
        return cls(
            number=number,
            victim=VICTIMS[number % len(VICTIMS)],
            deterministic=number % 4 != 3,
            after_step=draw.randrange(-1, NUM_STEPS),
            delay=draw.random(),
            is_stopped_first=number % 10 == 9,
        )

    @property
    def ranks(self) -> int:
        return 2 if self.victim in ("rank", "router") else 1

    @property
    def words(self) -> list[str]:
        routing = ["servers.routing=global"] if self.victim == "router" else []
        return [*WORDS, f"run.deterministic={str(self.deterministic).lower()}", *routing]


@dataclass
class Result:
    trial: Trial
    faults: list[str]
    killed: str  # what was hit, and its command line; "" where the run was over first
    said: list[str]  # lines of the start that was hit that speak of a loss: whether the run noticed
    starts: int
    seconds: float


class KilledRuns:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._starter = RunStarter(folder)

    def run_trial(self, trial: Trial) -> Result:
        started = time.monotonic()
        reference = self._reference(trial) if trial.deterministic else None
        folder = self.folder / f"trial_{trial.number:03d}"
        shutil.rmtree(folder, ignore_errors=True)
        run = self._start(folder, trial)
        killed = kill_at_moment(run, trial)
        faults: list[str] = []
        said: list[str] = []
        starts = 1
        while True:
            run.wait(_LIMIT_S)
            if starts == 1:
                said = [line[:200] for line in run.err.splitlines() if _LOSS.search(line)][:5]
            faults += [f"left behind: {line}" for line in run.processes_left(within_s=60)]
            if run.code == 0 or starts == _MAX_STARTS:
                break
            starts += 1
            run = self._start(folder, trial, "run.resume=true")
        if run.code:
            faults.append(f"exit code {run.code}: {run.err[-1500:]}")
        else:
            faults += find_faults(folder, num_replicas=trial.ranks)
            if reference is not None:
                faults += list(compare_runs(reference, folder))[:20]
        if not faults:
            shutil.rmtree(folder)
        return Result(trial, faults, killed, said, starts, round(time.monotonic() - started, 1))

    def end_all(self) -> None:
        self._starter.end_all()

    def _reference(self, trial: Trial) -> Path:
        name = f"whole_{trial.ranks}_{'global' if trial.victim == 'router' else 'local'}"
        folder = self.folder / name
        if not (folder / "DONE").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._start(folder, trial).wait(_LIMIT_S).require_success()
        return folder

    def _start(self, folder: Path, trial: Trial, *more: str) -> Run:
        words = [f"run.dir={folder}", "run.name=killed", *trial.words, *more]
        return self._starter(*words, ranks=trial.ranks)


def kill_at_moment(run: Run, trial: Trial) -> str:
    """Waits for the trial's moment, kills its victim, and says what that was."""
    if trial.after_step < 0:
        begun = time.monotonic()
        while time.monotonic() - begun < 25 * trial.delay and run.process.poll() is None:
            time.sleep(0.05)
    else:
        begun = time.monotonic()
        while not any(row["step"] >= trial.after_step for row in rows_so_far(run)):
            if run.process.poll() is not None or time.monotonic() - begun > _LIMIT_S:
                return ""
            time.sleep(0.01)
        time.sleep(1.5 * trial.delay)
    if run.process.poll() is not None:
        return ""
    found, hit = find_victims(run, trial), trial.victim
    if not found:
        found, hit = [run.process.pid], f"group, no {trial.victim} yet"
    draw = random.Random(trial.number)
    pid = draw.choice(sorted(found))
    is_group = trial.victim in ("group", "server", "router") or pid == run.process.pid
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        said = f"{hit}: {' '.join(psutil.Process(pid).cmdline())[:100]}"
        if trial.is_stopped_first:
            _send(pid, signal.SIGSTOP, is_group=is_group)
            time.sleep(3 * draw.random())
        _send(pid, signal.SIGKILL, is_group=is_group)
        return said
    return ""


def rows_so_far(run: Run) -> list[dict[str, Any]]:
    """Whole lines: the last one may be half written."""
    path = run.folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def find_victims(run: Run, trial: Trial) -> list[int]:
    if trial.victim == "group":
        return [run.process.pid]
    mark = _MARKS[trial.victim]
    found = [(int(line.split()[0]), line) for line in run.marked_processes()]
    if trial.victim in ("server", "router"):  # the head of its group
        return [pid for pid, line in found if mark in line and os.getpgid(pid) == pid]
    return [pid for pid, line in found if mark in line and "torch.distributed" not in line]


def kill_group(run: Run) -> None:
    """The trainer and all ranks at once; servers and router find out by themselves."""
    _send(run.process.pid, signal.SIGKILL, is_group=True)


def _send(pid: int, number: signal.Signals, *, is_group: bool) -> None:
    if is_group:
        os.killpg(os.getpgid(pid), number)
    else:
        os.kill(pid, number)


def find_faults(folder: Path, *, num_replicas: int) -> list[str]:
    """What holds with and without run.deterministic: every step once, every prompt once, sums that agree, no half
    file."""
    rows = read_rows(folder / "metrics.jsonl")
    faults = []
    if [row["step"] for row in rows] != [*range(NUM_STEPS + 1)]:
        faults.append(f"steps in metrics.jsonl: {[row['step'] for row in rows]}")
    in_ledger = rows_of_run(folder / "ledger")
    cost = cost_of(in_ledger)
    counted = [row for row in in_ledger if not row.get("abandoned")]
    prompts = [row for row in counted if row["kind"] == "prompt"]
    counts = Counter((row["step"], row["position"]) for row in prompts)
    faults += [f"{key} has {n} rows in the ledger" for key, n in counts.items() if n != 1]
    if len(prompts) != NUM_STEPS * PROMPTS_PER_STEP:
        faults.append(f"{len(prompts)} rows of prompts in the ledger")
    for name, column in (("responses", "responses"), ("tokens", "response_tokens")):
        of_prompts = sum(row[column] for row in prompts)
        in_metrics = sum(row.get(f"rollout/{name}_generated", 0) for row in rows)
        if of_prompts != in_metrics:
            faults.append(f"{name}: {of_prompts} in the ledger, {in_metrics} in the metrics")
        sampled, total = getattr(cost.total, name), rows[-1][f"rollout/{name}_total"]
        if total != sampled:
            faults.append(f"{name}: {sampled} were sampled by the ledger, {total} by the metrics")
    evaluations = Counter(row["policy_version"] for row in counted if row["kind"] == "evaluation")
    faults += [
        f"{n} evaluations of version {v}" for v, n in evaluations.items() if n != num_replicas
    ]
    halves = [*folder.rglob("*.tmp"), *folder.rglob("*.building"), folder / "owner.json"]
    faults += [f"left behind: {path}" for path in halves if path.exists()]
    return faults


def go_on(folder: Path, trials: int, say: Callable[[str], object] = print) -> list[Result]:
    """From the first number that is not in results.jsonl. Results of this sitting."""
    runs = KilledRuns(folder)
    path = folder / "results.jsonl"
    done = {row["trial"]["number"] for row in read_rows(path)} if path.exists() else set()
    results = []
    try:
        for number in range(trials):
            if number in done:
                continue
            result = runs.run_trial(Trial.of(number))
            with path.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            results.append(result)
            say(f"{number:3} {result.trial.victim:7} {result.seconds:6.1f} s {result.faults[:3]}")
    finally:
        runs.end_all()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=100)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    results = go_on(
        arguments.folder.resolve(), arguments.trials, say=lambda line: print(line, flush=True)
    )
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())

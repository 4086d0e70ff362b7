"""A run that was killed in the middle of a step, its files damaged one at a time, and what a resume makes of each. The
real trainer with the real Megatron actor; only SGLang is played (`stub_sglang`)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.stub_sglang import StubSglang
from harness.trainer_runs import ROOT

from megatron_ar3po.comparison.process import RunProcess, preload
from megatron_ar3po.config.load import load_config
from megatron_ar3po.train import main

# What no resume reads: logs; what the run writes for others, or anew; locks, whose content only names somebody in a
# message; an older checkpoint beside a whole one, which has tests of its own; a checkpoint that was not finished.
EXEMPT = (
    *("logs/", "status/", "tensorboard/", "train.log", "dumps/", "weight_sync/"),
    *("reuse/dp00_of_01.owner", "checkpoints/step_00002/", "checkpoints/step_00004.tmp/"),
    "ledger/responses/step_00003.",  # of a step that the checkpoint has
)
# Absent where an owner let go, and where a step was not begun: nothing tells that a file was there.
MAY_BE_ABSENT = ("owner.json", "ledger/responses/")
LAST_STEP = 3  # that is whole before the kill
CONFIG = str(ROOT / "examples/tiny_sum/config.yaml")
WORDS = (
    "run.progress=plain",
    "evaluation.max_prompts=4",
    "evaluation.samples_per_prompt=1",
    "observability.tensorboard=false",
    "checkpoint.every_steps=1",
    "rollout.prompts_per_step=4",
    "weight_sync.transport=disk",
)
_LIMIT_S = 180.0


def flip(path: Path) -> None:
    """One byte in the middle, all of its bits but the highest: text stays text."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x7F
    path.write_bytes(content)


def cut(path: Path) -> None:
    """In half, and never where a row ends, with its newline or without: rows that are gone from the end are as if they
    had not been written."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[: half - 2 * (b"\n" in content[half - 1 : half + 1])])


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "cut": cut,
    "emptied": empty,
    "removed": Path.unlink,
}


@dataclass(frozen=True)
class Resumed:
    code: int
    said: str  # all that the resumed run printed

    @property
    def error(self) -> str:
        """Of a refusal: the sentence."""
        return self.said.rpartition("ar3po: error: ")[2].strip() if self.code else ""


class DamagedRuns:
    """Copies of one killed run in `folder`, resumed against `stub`."""

    def __init__(self, folder: Path, stub: StubSglang) -> None:
        self._folder, self._stub = folder, stub
        self._words = [CONFIG, *WORDS, f"servers.urls=['{stub.url}']"]
        self.killed = folder / "killed"
        preload()
        stub.state_options_of(load_config(self._words[:1], self._words[1:]))

    def make_killed_run(self) -> None:
        """Killed when the step after LAST_STEP has half of its responses."""
        run = self._start(self.killed, "run.num_steps=1000")
        stub = self._stub
        wait_until(lambda: has_step(self.killed, LAST_STEP), run)
        before = stub.counters["sglang:num_requests_total"]
        stub.hold_after(before + 8)
        wait_until(lambda: stub.is_holding, run)
        kill(run)
        stub.hold_after(None)

    def files(self) -> list[str]:
        """What a resume may read, by path in the run's folder."""
        found = (p for p in self.killed.rglob("*") if p.is_file() and p.stat().st_size)
        names = (p.relative_to(self.killed).as_posix() for p in found)
        return sorted(name for name in names if not name.startswith(EXEMPT))

    def cases(self) -> list[tuple[str, str]]:
        """Every file with every damage that is one."""
        return [
            (name, damage)
            for name in self.files()
            for damage in DAMAGES
            if not (damage == "removed" and name.startswith(MAY_BE_ABSENT))
        ]

    def resume_after(self, damage: str, *names: str) -> Resumed:
        copy = self._folder / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.killed, copy)
        for name in names:
            DAMAGES[damage](copy / name)
        return self.resume(copy)

    def resume(self, folder: Path) -> Resumed:
        log = self._folder / "resumed.log"
        log.unlink(missing_ok=True)
        run = self._start(folder, f"run.num_steps={LAST_STEP + 2}", "run.resume=true", log=log)
        wait_until(lambda: run.poll() is not None, run)
        code = run.poll()
        assert code is not None
        return Resumed(code, log.read_text())

    def _start(self, folder: Path, *words: str, log: Path | None = None) -> RunProcess:
        return RunProcess(
            main,
            [*self._words, f"run.dir={folder}", *words],
            log=log or self._folder / "first.log",
            environment={"OMP_NUM_THREADS": "1"},
        )


def explain_fault(resumed: Resumed, name: str) -> str:
    """Why a resume over a damaged file was not what it must be; "" if it was: it went on and said so, or it was
    refused in one sentence that names the file."""
    if "Traceback" in resumed.said:
        return "a traceback"
    if resumed.code == 0:
        return "" if Path(name).name in resumed.said else "went on in silence"
    if resumed.code not in (1, 2):
        return f"exit code {resumed.code}"
    if Path(name).name not in resumed.error:
        return f"refused without naming the file: {resumed.error[:200]}"
    return "" if "\n" not in resumed.error else f"not one sentence: {resumed.error[:400]}"


def has_step(folder: Path, step: int) -> bool:
    return (folder / f"checkpoints/step_{step:05d}").is_dir()


def wait_until(is_true: Callable[[], bool], run: RunProcess) -> None:
    end = time.monotonic() + _LIMIT_S
    while not is_true():
        assert time.monotonic() < end, f"not within {_LIMIT_S} s"
        time.sleep(0.02)


def kill(run: RunProcess) -> None:
    """The whole group, at once."""
    os.killpg(run.pid, signal.SIGKILL)
    wait_until(lambda: run.poll() is not None, run)

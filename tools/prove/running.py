"""Runs checks, each in a process of its own: one that crashes, hangs or spoils the device costs its own row alone."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from prove.findings import Finding, Row, row_of
from prove.stand import Stand, tiny_stand
from prove.table import Check

PROGRAM = Path(__file__).resolve().parents[1] / "prove_gpu.py"
ALWAYS = ("torch", "megatron")
LEAST_S = 10.0  # a check that has less time left is not begun
TAIL_BYTES = 20_000


def look_around() -> dict[str, str]:
    """What a check may need -> what to say where it is not there; empty where it is."""
    lacks = {
        "torch": "torch is not installed",
        "megatron": "Megatron-Core is not there; docs/gpu.md says how to carry it",
        "sglang": "SGLang is not installed",
        "gpu": "no GPU",
    }
    found = {name: find_spec(name) is not None for name in ("torch", "megatron", "sglang")}
    if found["torch"]:
        import torch

        found["gpu"] = torch.cuda.is_available()
    return {name: "" if found.get(name) else said for name, said in lacks.items()}


def run_checks(
    checks: Sequence[Check], lacks: Mapping[str, str], *, work: Path, logs: Path, total_s: float
) -> Iterator[Row]:
    """`lacks`: of `look_around`. `work`: models and scratch files. `logs`: a log for each check. `total_s`: for all;
    what is left of it bounds each."""
    end = time.monotonic() + total_s
    device = "cpu" if lacks["gpu"] else "cuda"
    for check in checks:
        left = end - time.monotonic()
        missing = "; ".join(lacks[need] for need in (*ALWAYS, *check.needs) if lacks[need])
        if not missing and left < LEAST_S:
            missing = f"no time is left of {total_s / 60:.3g} minutes"
        if missing:
            yield Row(check.name, check.question, "not available", missing, 0.0)
            continue
        limit_s = min(check.limit_s, left)
        yield run_check(check, device, work=work, log=logs / f"{check.name}.log", limit_s=limit_s)


def run_check(check: Check, device: str, *, work: Path, log: Path, limit_s: float) -> Row:
    """In a process, which is killed with all that it started when `limit_s` is over."""
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=work,
        prefix=f"{check.name}-",
        ignore_cleanup_errors=True,  # a server may still write
    ) as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, str(PROGRAM), "--one", json.dumps(asdict(check))]
        command += ["--device", device, "--work", str(work), "--result", str(result)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = f"ended with code {process.wait(limit_s)} and no result"
            except subprocess.TimeoutExpired:
                ended = f"not done within {limit_s:.0f} s"
            finally:
                end_group(process)
        seconds = time.monotonic() - started
        if not result.is_file():
            return row_of(
                check.name, check.question, Finding(ended, problem=last_line(log)), seconds
            )
        said = json.loads(result.read_text(encoding="utf-8"))
    return row_of(check.name, check.question, Finding(**said), seconds)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """The check and what is left of its processes. A server that it started has a group of its own and a guard that
    ends it with the check."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return f"{lines[-1].strip()} ({log})" if lines else f"it said nothing ({log})"


def run_here(check: Check, device: str, *, work: Path, result: Path) -> None:
    """The check's own process. What goes wrong is in the result as well as in the log."""
    if find_spec("xxhash") is None:
        from prove import xxhash_stand_in

        sys.modules["xxhash"] = xxhash_stand_in
    folder = result.parent / "files"
    folder.mkdir()
    stand = Stand("cuda", folder, work) if device == "cuda" else tiny_stand(folder, models=work)
    module, _, function = check.function.partition(":")
    try:
        finding: Finding = getattr(importlib.import_module(module), function)(stand)
        if not stand.on_gpu and not check.is_whole_anywhere:
            finding = replace(finding, figure=f"tiny, on the CPU: {finding.figure}")
    except Exception as error:  # whatever it is, it is this check's row; the others go on
        traceback.print_exc()
        finding = Finding(type(error).__name__, problem=str(error))
    beside = result.with_suffix(".new")
    beside.write_text(json.dumps(asdict(finding), default=str), encoding="utf-8")
    beside.rename(result)

"""`WorkerProcess`: one verifier worker, as the thread sees it that feeds it: started, written to, read, ended.

The kernel ends a worker when the thread that started it ends (worker.py), so a thread that starts one lives as long as
the worker is wanted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ar3po.rewards.grade import Grade

START_TIMEOUT_S = 120.0
_PAUSE_S = 0.002
_DYING_S = 2.0  # between the end of a worker's output and its exit status
_OWN_SIGNALS = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS}


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What the workers are to do. `grader` is math, check or an import path; `options` and `rewards` are for them."""

    grader: str = "math"
    options: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 1
    timeout_s: float = 5.0
    memory_bytes: int = 1024**3


class WorkerProcess:
    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._readable = select.poll()
        self._thread = threading.current_thread()  # that started it, and alone closes its pipes
        self.was_ended = False  # by us, or its death is counted already

    @property
    def was_started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """None where it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def kill(self) -> None:
        process = self._process
        if process is None:
            return
        self.was_ended = True
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and threading.current_thread() is self._thread:
                with contextlib.suppress(OSError):
                    pipe.close()

    def start(self) -> str | None:
        """None when the worker is ready, else the end of what it wrote."""
        settings = {
            "grader": self._settings.grader,
            "options": self._settings.options,
            "rewards": self._settings.rewards,
            "timeout_s": self._settings.timeout_s,
            "memory_bytes": self._settings.memory_bytes,
            "parent": os.getpid(),
        }
        package_root = str(Path(__file__).resolve().parents[2])
        search_path = [package_root, *(entry for entry in sys.path if entry)]
        with tempfile.TemporaryFile() as words:
            self._received, self.was_ended, self._thread = b"", False, threading.current_thread()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_ar3po.rewards.worker", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path))},
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            self._readable = select.poll()
            self._readable.register(self._process.stdout.fileno(), select.POLLIN)
            os.set_blocking(self._process.stdin.fileno(), False)
            try:
                self.receive(START_TIMEOUT_S)
                return None
            except (EOFError, OSError, ValueError) as error:  # ValueError: a line that is no JSON
                self.kill()
                words.seek(0, os.SEEK_END)
                words.seek(max(0, words.tell() - 2000))
                return (
                    words.read().decode(errors="replace").strip()
                    or f"nothing ({type(error).__name__})"
                )

    def send(self, items: list[list[Any]]) -> None:
        """Write a batch; a worker that does not take it in time is as good as dead."""
        assert self._process is not None and self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        data = memoryview(json.dumps(items).encode() + b"\n")
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        deadline = time.monotonic() + START_TIMEOUT_S
        while data:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise EOFError("the worker does not read")
            data = data[os.write(descriptor, data) :]

    def receive(self, timeout_s: float, *, is_crowd: bool = False) -> Any:
        """The next line of the worker. In a crowd of items nobody waits for this one: let a few lines come together,
        waking up for each would cost more than reading it."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not self._readable.poll(timeout_s * 1000):
                raise TimeoutError
            if is_crowd:
                time.sleep(_PAUSE_S)
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def explain_death(self, error: Exception) -> Grade:
        """How the worker ended that stopped answering; it is gone afterwards."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_S)
        code = self._process.poll()
        self.kill()
        if code in _OWN_SIGNALS:
            name = signal.Signals(-code).name
            return Grade(status="ungradable", reason=f"its worker crashed ({name})")
        if code is None:
            return Grade(status="error", reason=f"its worker broke the protocol: {error!r}"[:300])
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"
        return Grade(status="error", reason=f"its worker {how}")

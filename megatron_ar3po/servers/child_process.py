"""`ChildProcess`: a server or a router, as the process that started it holds it.

Promises:
- it runs in a session of its own, with its output in a log file and a folder for its temporary files;
- it ends with `stop`, all that it started along with it: asked first, killed after a grace period;
- one that was begun writes nothing outside of that folder until it is started;
- it ends within a second when its parent dies, SIGKILL included, even if it stands still then: the module that it runs
  calls `platform.process_guard.start_guard` before anything else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.platform.handed_over import OUTPUT, hand_over

logger = logging.getLogger(__name__)

_KILL_LIMIT_S = 60.0  # a process that hands back a GPU's memory takes its time
_LOG_TAIL_LINES = 15


class ChildProcess:
    """May be started again once it was stopped."""

    def __init__(
        self,
        name: str,
        module: str,
        *,
        log_path: Path,
        interpreter: str | Path = sys.executable,
        stop_grace_s: float = 5.0,
    ) -> None:
        """`module`: run as `python -m MODULE PARENT_PID FOLDER [early] ARGUMENTS`, where FOLDER takes its temporary
        files and ARGUMENTS is a JSON object; `early` if it is begun. `stop_grace_s`: from `stop` until it is killed."""
        self.name, self.log_path = name, log_path
        self._module = module
        self._interpreter, self._stop_grace_s = interpreter, stop_grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = ""
        self._is_begun = False

    @property
    def process_group(self) -> int:
        """Of the running process; its leader's pid too."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def begin(self, known: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        """The process imports, knowing these arguments, and waits for `start` to say all of them
        (`platform.handed_over`). Returns at once."""
        self._make_folder()
        output = Path(self._temporary) / OUTPUT
        self._spawn(["early", json.dumps(known)], self._complete(environment), output)
        self._is_begun = True

    def start(
        self, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        """Returns at once. `environment`: instead of ours; TMPDIR in it becomes the folder for temporary files."""
        if self._is_begun:
            self._is_begun = False
            if self.is_running():
                self.log_path.parent.mkdir(parents=True, exist_ok=True)
                whole = self._complete(environment)
                hand_over(Path(self._temporary), arguments, whole, self.log_path)
                return
            self.stop()  # what ended it will end the next one, which has a log
        self._make_folder()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._spawn([json.dumps(arguments)], self._complete(environment), self.log_path)

    def _make_folder(self) -> None:
        assert self._process is None, f"{self.name} was started twice; stop it first"
        self._temporary = tempfile.mkdtemp(prefix="ar3po_server_")

    def _complete(self, environment: Mapping[str, str] | None) -> dict[str, str]:
        inherited = os.environ if environment is None else environment
        return {**inherited, "TMPDIR": self._temporary}

    def _spawn(self, words: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        command = [str(self._interpreter), "-W", "ignore", "-m", self._module]
        command += [str(os.getpid()), self._temporary, *words]
        with output.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # a byte on it ends the process
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # its own process group: it is ended as a whole
            )

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the whole process group: asks its guard, waits a little, kills. Harmless when it runs no more. It holds
        nothing that is worth a slow farewell."""
        process, self._process = self._process, None
        self._is_begun = False
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.write(b"stop")
            process.stdin.close()
            process.send_signal(signal.SIGCONT)  # one that stands still could not hear it
            process.wait(self._stop_grace_s)
        except BrokenPipeError:
            pass  # it has ended already
        except subprocess.TimeoutExpired:
            logger.info("%s did not end within %g s: killed", self.name, self._stop_grace_s)
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)  # also what outlived its leader
        process.wait(_KILL_LIMIT_S)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def log_tail(self) -> str:
        """For an error message: how it stands, its last log lines, and where the others are."""
        if self._process is None:
            state = "It was stopped."
        else:
            ended = self._process.poll()
            state = "It still runs." if ended is None else f"Its exit code was {ended}."
        return f"{state} {log_tail(self.log_path)}"


def log_tail(path: Path) -> str:
    if not path.is_file():
        return f"There is no log at {path}."
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = "\n".join(f"    {line[:300]}" for line in lines[-_LOG_TAIL_LINES:])
    return f"Last lines of {path}:\n{shown}"

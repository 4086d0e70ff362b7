"""Where the main thread of this process is, as another thread sees it: whether it stands, and whether what it stands in
is a collective of torch's or Megatron's, of which nobody tells us when it begins.

A thread that stands has the same frames as at the look before, and has used no processor time in between. On a GPU a
thread that waits for its kernels may use all of a processor: there it does not stand.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

_IDLE_SHARE = 0.01  # of a processor, for a thread that waits; a step of Python takes more
_OF_OTHERS = ("/torch/distributed/", "/megatron/core/", "/torch/autograd/")
_OF_DISKS = ("/torch/distributed/checkpoint/filesystem", "/filesystem_async")
_OURS = "/megatron_ar3po/"
_MAX_FRAMES = 60
# What gloo, NCCL and the store say of a peer. Memory that is out and a wrong shape are a rank's own, wherever raised.
_OF_PEERS = re.compile(r"gloo|nccl|peer|timed? ?out|connect|socket|broken pipe", re.IGNORECASE)


class Frame(NamedTuple):
    file: str
    line: int
    function: str

    def describe(self) -> str:
        return f"{'/'.join(self.file.split('/')[-2:])}:{self.line} {self.function}"


@dataclass(frozen=True, slots=True)
class Standstill:
    """`seconds`: that it has stood so, as far as was looked. `waits_in`: the collective, if it is one of another
    library; `at`: the frame, and from where of this package."""

    seconds: float = 0.0
    at: str = ""
    waits_in: str = ""


class MainThread:
    """`look` every few seconds, from one other thread."""

    def __init__(self) -> None:
        thread = threading.main_thread()
        self._ident = thread.ident or 0
        self._clock = time.pthread_getcpuclockid(self._ident)
        self._frames: tuple[Frame, ...] = ()
        self._looked = self._since = time.monotonic()
        self._cpu_s = time.clock_gettime(self._clock)

    def look(self) -> Standstill:
        frames = _frames_of(sys._current_frames().get(self._ident))
        now, cpu_s = time.monotonic(), time.clock_gettime(self._clock)
        is_idle = cpu_s - self._cpu_s <= _IDLE_SHARE * (now - self._looked)
        if frames != self._frames or not is_idle:
            self._since = now
        self._frames, self._looked, self._cpu_s = frames, now, cpu_s
        if self._since == now or not frames:
            return Standstill()
        return Standstill(now - self._since, _describe_frames(frames), _collective_of(frames))


def _frames_of(frame: FrameType | None) -> tuple[Frame, ...]:
    """Innermost first."""
    found: list[Frame] = []
    while frame is not None and len(found) < _MAX_FRAMES:
        code = frame.f_code
        found.append(Frame(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return tuple(found)


def _describe_frames(frames: tuple[Frame, ...]) -> str:
    mine = next((f for f in frames if _OURS in f.file), frames[0])
    if mine is frames[0]:
        return mine.describe()
    return f"{frames[0].describe()} (from {mine.describe()})"


def _collective_of(frames: tuple[Frame, ...]) -> str:
    """
    >>> _collective_of((Frame("/x/torch/distributed/distributed_c10d.py", 9, "all_reduce"),))
    'all_reduce'
    >>> _collective_of((Frame("/x/megatron_ar3po/rollout/controller.py", 9, "collect"),))
    ''
    """
    inner = frames[0].file
    if any(part in inner for part in _OF_DISKS) or not any(part in inner for part in _OF_OTHERS):
        return ""
    # torch's own wrappers say less than what they wrap.
    named = next((f for f in frames if f.function not in ("wrapper", "__call__")), frames[0])
    return named.function


def raised_in_collective(error: BaseException) -> bool:
    """Whether it comes from a wait for other ranks inside torch or Megatron: a time limit, or a peer that has gone."""
    if not isinstance(error, RuntimeError):
        return False
    is_torchs = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    if not is_torchs and not _OF_PEERS.search(str(error)):
        return False
    found: list[Frame] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found.insert(0, Frame(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return bool(found) and bool(_collective_of(tuple(found)))

"""What the watch over its rank costs: processor time of the watch's thread, by each thing that it does every five
seconds, and of the main thread for a phase and a collective.

    python benchmarks/rank_watch.py
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.distributed.rank_status import WRITE_EVERY_S, write_status
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.distributed.watch_thread import NextRank

TIMES = 2000
DEPTH = 40  # frames of the main thread, as in the middle of a Megatron step


def measure(task: Callable[[], object], times: int = TIMES) -> float:
    """Microseconds of this thread's processor time for one."""
    before = time.thread_time()
    for _ in range(times):
        task()
    return 1e6 * (time.thread_time() - before) / times


def use_phase(watch: RankWatch) -> None:
    with watch.phase("step"), watch.collective("all ranks", is_of_all=True):
        pass


def sleep_deep(depth: int, ended: threading.Event) -> None:
    if depth:
        sleep_deep(depth - 1, ended)
    else:
        ended.wait()


def measure_thread(watch: RankWatch, folder: Path, ended: threading.Event) -> None:
    write_status(folder, RankWatch(rank=1, world_size=2).status())
    next_rank = NextRank(watch, folder, 60.0, WRITE_EVERY_S)
    parts = {
        "looks where the main thread stands": watch.look_around,
        "writes its status": lambda: write_status(folder, watch.status()),
        "looks at the next rank's": next_rank.has_fallen_silent,
        "looks how long it has waited": watch.still_s,
    }
    total = 0.0
    for name, task in parts.items():
        took = measure(task)
        total += took
        print(f"{name:<36}{took:>8.0f} us")
    print(
        f"{'every five seconds':<36}{total:>8.0f} us: {1e-4 * total / WRITE_EVERY_S:.4f}% of a processor"
    )
    ended.set()


def main() -> None:
    watch = RankWatch(rank=0, world_size=2)
    print(f"{'a phase and a collective in it':<36}{measure(lambda: use_phase(watch)):>8.1f} us")
    with tempfile.TemporaryDirectory() as folder:
        ended = threading.Event()
        thread = threading.Thread(target=measure_thread, args=(watch, Path(folder), ended))
        thread.start()
        sleep_deep(DEPTH, ended)
        thread.join()


if __name__ == "__main__":
    main()

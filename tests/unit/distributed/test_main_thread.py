"""Where the main thread stands, seen from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from megatron_ar3po.distributed.main_thread import MainThread, raised_in_collective


def look_during(task: Callable[[], None], seconds: float) -> list[tuple[float, str, str]]:
    """What a thread sees of the main thread when it begins `task` and `seconds` later, twice."""
    seen = []

    def look() -> None:
        thread = MainThread()
        for _ in range(3):
            found = thread.look()
            seen.append((found.seconds, found.at, found.waits_in))
            time.sleep(seconds)

    looking = threading.Thread(target=look)
    began = threading.Timer(0.1, looking.start)
    began.start()
    task()
    began.join()
    looking.join()
    return seen


def test_a_thread_that_waits_stands_and_one_that_computes_does_not():
    """It sleeps for as long as it is looked at: at the second look it has stood for 0.2 s."""
    first, second, third = look_during(lambda: time.sleep(0.8), 0.2)
    assert first == (0.0, "", "")
    assert 0.2 <= second[0] < third[0] < 0.6
    assert "test_main_thread.py" in second[1] and second[2] == ""

    def compute() -> None:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            sum(range(1000))

    # On a machine that is busy elsewhere it may get no processor for 0.2 s, and then stands as well: not five times.
    looks = ([seconds for seconds, _, _ in look_during(compute, 0.2)] for _ in range(5))
    assert [0.0, 0.0, 0.0] in looks


def raise_in(file: str, says: str = "timed out") -> RuntimeError:
    """From code that is said to stand in `file`."""
    code = compile(f"def wait():\n    raise RuntimeError({says!r})\nwait()", file, "exec")
    try:
        exec(code, {})
    except RuntimeError as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_error_tells_by_its_frames_whether_it_comes_from_a_wait_for_others():
    assert raised_in_collective(raise_in("/lib/megatron/core/distributed/grad_buffer.py"))
    assert raised_in_collective(raise_in("/lib/torch/distributed/distributed_c10d.py"))
    assert not raised_in_collective(raise_in("/lib/torch/distributed/checkpoint/filesystem.py"))
    assert not raised_in_collective(raise_in("/lib/megatron_ar3po/trainer.py"))
    assert not raised_in_collective(ValueError("raised nowhere"))


def test_memory_that_is_out_inside_megatron_is_the_ranks_own_error_and_a_lost_peer_is_not():
    layers, backward = "/lib/megatron/core/tensor_parallel/layers.py", "/torch/autograd/graph.py"
    for says in (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
        "mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)",
        "CUDA error: device-side assert triggered",
    ):
        assert not raised_in_collective(raise_in(layers, says))
        assert not raised_in_collective(raise_in(backward, says))
    for says in (
        "[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711",
        "Timed out waiting 4000ms for recv operation to complete",
        "NCCL communicator was aborted on rank 1.",
    ):
        assert raised_in_collective(raise_in(layers, says))

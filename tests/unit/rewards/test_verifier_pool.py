"""The pool under everything that can happen to it. Real processes; nothing is faked.

Not exercised here: the machine running out of memory as a whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool, VerifierPoolError, _Item

MakePool = Callable[..., VerifierPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[VerifierPool] = []

    def make(grader: str = "chaos_grader:make_grader", **settings: object) -> VerifierPool:
        pools.append(VerifierPool(PoolSettings(grader=grader, **settings)))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ten_thousand_items_with_disasters_among_them_are_all_graded_right_and_in_order(
    make_pool: MakePool,
) -> None:
    """A worker killed from outside, an item that hangs for good, one that loops, a memory bomb, and one that kills its
    worker: every other item gets its own grade, in the order of the questions."""
    pairs = [(str(i), str(i if i % 3 else -i)) for i in range(10_000)]
    disasters = {1_000: "hang", 3_000: "loop", 5_000: "bomb", 7_000: "die", 9_000: "stubborn"}
    for index, name in disasters.items():
        pairs[index] = (name, "never")
    pool = make_pool(num_workers=2, timeout_s=0.5, memory_bytes=512 * 1024**2)
    pool.wait_until_ready()
    futures = pool.submit_all(pairs)
    futures[200].result(timeout=60)
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    statuses = [future.result(timeout=120).status for future in futures]

    expected = {
        "hang": "ungradable",
        "loop": "ungradable",
        "bomb": "ungradable",
        "die": "error",
        "stubborn": "ungradable",
    }
    assert {name: statuses[index] for index, name in disasters.items()} == expected
    for index, status in enumerate(statuses):
        if index not in disasters:
            assert status == ("correct" if index % 3 or index == 0 else "incorrect"), index
    assert pool.counts.items == 10_000
    assert (pool.counts.ungradable, pool.counts.errors) == (4, 1)
    assert pool.counts.retries >= 5
    assert pool.counts.killed == 2  # only the deaf one needed it, both times
    assert pool.counts.deaths >= 3  # killed from outside, and twice at "die"


def test_grades_do_not_depend_on_the_number_of_workers(make_pool: MakePool) -> None:
    pairs = [(rf"so \boxed{{{i}/{i + 2}}}", f"{i % 7}/{i % 7 + 2}") for i in range(600)]
    grades = []
    for num_workers in (1, 2):
        pool = make_pool("math", num_workers=num_workers)
        grades.append([(g.status, g.extracted, g.reason) for g in pool.grade_all(pairs)])
    assert grades[0] == grades[1]
    assert sum(status == "correct" for status, _, _ in grades[0]) == 7


def test_an_answer_does_not_change_the_verdict_of_the_next(make_pool: MakePool) -> None:
    """latex2sympy2 keeps assignments in global variables; nothing of that may be seen by a later item."""
    pool = make_pool("math")
    question = (r"\boxed{\sum_{k=1}^{3} (k + x)}", "6+3x")
    before = pool.submit(*question).result(timeout=60)
    pool.submit(r"\boxed{x = 7}", r"\sum_{k=1}^{3} k").result(timeout=60)
    after = pool.submit(*question).result(timeout=60)
    assert before.status == after.status == "correct"


def test_a_worker_that_dies_at_an_item_once_is_an_accident(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    assert pool.submit(f"die once {tmp_path / 'died'}", "x").result(timeout=60).status == "correct"
    assert pool.counts.deaths == 1


def test_a_grader_that_raises_gives_a_counted_error(make_pool: MakePool) -> None:
    pool = make_pool()
    grade = pool.submit("raise", "x").result(timeout=60)
    assert (grade.status, grade.reason) == ("error", "RuntimeError: no such luck, twice")
    assert (pool.counts.retries, pool.counts.errors, pool.counts.restarts) == (1, 1, 0)


def test_a_grader_that_raises_once_is_tried_again(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    grade = pool.submit(f"raise once {tmp_path / 'raised'}", "x").result(timeout=60)
    assert grade.status == "correct"
    assert (pool.counts.retries, pool.counts.errors, pool.counts.items) == (1, 0, 1)


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("loop", "ungradable", "not decided within 0.5 s, twice"),
        ("bomb", "ungradable", "it needs more memory than a verifier worker may use, twice"),
        ("deep", "ungradable", "nested too deeply, twice"),
        ("crash", "ungradable", "its worker crashed (SIGABRT), twice"),
        ("die", "error", "its worker was killed (SIGKILL), twice"),
        ("exit", "error", "its worker ended (3), twice"),
    ],
)
def test_what_goes_wrong_twice_is_told_apart_by_whose_doing_it_was(
    make_pool: MakePool, text: str, status: str, reason: str
) -> None:
    pool = make_pool(timeout_s=0.5, memory_bytes=512 * 1024**2)
    grade = pool.submit(text, "x").result(timeout=60)
    assert (grade.status, grade.reason) == (status, reason)
    assert pool.submit("1", "1").result(timeout=60).status == "correct"


def test_a_response_that_exhausts_the_time_and_then_meets_a_fault_is_not_condemned(
    make_pool: MakePool, tmp_path: Path
) -> None:
    grade = make_pool(timeout_s=0.5).submit(f"loop then raise {tmp_path / 'looped'}", "x")
    found = grade.result(timeout=60)
    assert found.status == "error"
    assert found.reason == "not decided within 0.5 s, then RuntimeError: no such luck"


def test_the_second_chance_of_an_exhausted_worker_is_a_fresh_one_without_company(
    make_pool: MakePool,
) -> None:
    """Ten items in a batch, the sixth loops. The worker that is asked at the end has seen at most the four behind it:
    the five before it were another's, and so was the second try, which ended its worker too."""
    pool = make_pool(timeout_s=0.5)
    futures = pool.submit_all(
        [(str(i), str(i)) for i in range(5)]
        + [("loop", "x")]
        + [(str(i), str(i)) for i in range(6, 10)]
    )
    statuses = [future.result(timeout=60).status for future in futures]
    assert statuses == ["correct"] * 5 + ["ungradable"] + ["correct"] * 4
    assert pool.counts.restarts == 2
    assert pool.submit("how many", "x").result(timeout=60).reward == 4.0


def test_a_users_grader_may_return_a_reward(make_pool: MakePool) -> None:
    grade = make_pool(rewards={"correct": 1.0}).submit("half", "x").result(timeout=60)
    assert (grade.status, grade.reward) == ("incorrect", 0.5)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("chaos_grader:not_callable", "not_callable is no function but of type int"),
        ("chaos_grader:with_three_arguments", r"cannot take \(response, ground_truth\)"),
        ("chaos_grader:missing", "has no function 'missing'"),
        ("no_such_module:make", "there is no module 'no_such_module'"),
    ],
)
def test_a_grader_with_a_wrong_signature_is_refused_at_the_start(
    make_pool: MakePool, path: str, words: str
) -> None:
    pool = make_pool(path)
    with pytest.raises(VerifierPoolError, match=words):
        pool.wait_until_ready()
    with pytest.raises(VerifierPoolError, match="failed to start 3 times"):
        pool.submit("x", "x")


def test_a_cancelled_item_is_never_graded(make_pool: MakePool) -> None:
    pool = make_pool()
    slow = pool.submit("slow", "x")
    waiting = pool.submit("1", "1")
    assert waiting.cancel()
    assert slow.result(timeout=60).status == "incorrect"
    assert pool.submit("2", "2").result(timeout=60).status == "correct"
    assert pool.counts.items == 2


def test_closing_ends_the_workers_even_in_the_middle_of_an_item(make_pool: MakePool) -> None:
    pool = make_pool(num_workers=2, timeout_s=600.0)
    pool.wait_until_ready()
    running, waiting = pool.submit("hang", "x"), [pool.submit("hang", "x") for _ in range(4)]
    wait_until(running.running)
    pids = pool.worker_pids
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
    assert not any(is_alive(pid) for pid in pids)
    for future in [running, *waiting]:
        with pytest.raises(VerifierPoolError, match="closed"):
            future.result(timeout=5)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Also those that are deaf to every signal but SIGKILL and never look at their input again."""
    program = textwrap.dedent(
        """
        import time
        from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool
        pool = VerifierPool(PoolSettings(grader="chaos_grader:make_grader", num_workers=2, timeout_s=600.0))
        pool.wait_until_ready()
        futures = [pool.submit("hang", "x") for _ in range(2)]
        while len(pool.worker_pids) < 2 or not all(f.running() for f in futures):
            time.sleep(0.01)
        time.sleep(0.2)
        print(*pool.worker_pids, flush=True)
        time.sleep(600)
        """
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_workers_do_not_import_torch() -> None:
    program = (
        "import sys, megatron_ar3po.rewards.worker, megatron_ar3po.rewards.math.grader;"
        "print('torch' in sys.modules)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert said.stdout.strip() == "False", said.stderr


def test_what_goes_back_into_a_broken_pool_has_its_answer_at_once(make_pool: MakePool) -> None:
    """One feeder breaks the pool while another is about to put an item back for its second try."""
    pool = make_pool(num_workers=2)
    pool.wait_until_ready()
    item = _Item("1", "1", {}, is_running=True)
    item.future.set_running_or_notify_cancel()
    pool._break("no worker starts")
    pool._return([item], at_the_end=True)
    with pytest.raises(VerifierPoolError, match="no worker starts"):
        item.future.result(timeout=5)

"""Whom the others wait for, worked by hand; then two real gloo processes of which one does not come. Not exercised: a
shared file system, and who is late inside one of Megatron's own collectives.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from megatron_ar3po.distributed.collectives import PeerError, Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.peer_error import notes_of
from megatron_ar3po.distributed.rank_status import (
    SILENT_AFTER_S,
    RankStatus,
    StatusObserver,
    host_name,
    look_again,
    read_status,
    read_statuses,
    stacks_file,
    status_file,
    write_status,
)
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.distributed.stragglers import (
    describe_end,
    describe_phases,
    describe_stragglers,
    find_stragglers,
)
from megatron_ar3po.distributed.watch_thread import STACKS_REQUEST, NextRank

NOW = 1000.0


def status(rank: int, **facts) -> RankStatus:
    """A rank of four that wrote just now."""
    known = {"world_size": 4, "host": f"node{rank // 2}", "pid": 100 + rank, "written": NOW}
    return RankStatus(rank=rank, **(known | facts))


def waiting(rank: int, num_collectives: int, for_: str = "all ranks", **facts) -> RankStatus:
    return status(rank, num_collectives=num_collectives, waits_for=for_, waits_s=90.0, **facts)


def test_the_leader_still_in_its_rollout_is_the_one_that_is_waited_for():
    """Two replicas of two. Replica 0 has come to collective 8; rank 3 waits for its leader, rank 2, at collective 7."""
    late = status(2, num_collectives=7, phase="step/rollout", phase_s=95.0)
    ranks = [waiting(0, 8), waiting(1, 8), late, waiting(3, 7, "its replica")]
    assert find_stragglers(ranks, NOW) == [late]
    assert describe_stragglers(ranks, NOW + 5) == (
        "3 ranks wait for rank 2 (node1, pid 102): in step/rollout for 100 s"
    )


def test_a_rank_that_has_not_left_a_collective_which_the_others_have_left_is_waited_for():
    """Stopped 8 s ago, it is not silent yet; what it last wrote is that it waits, too."""
    stopped = waiting(1, 7, written=NOW - 8)
    assert find_stragglers([waiting(0, 8), stopped], NOW) == [stopped]
    replica = [waiting(0, 8), waiting(1, 7, "its replica")]
    assert find_stragglers(replica, NOW) == [], "as far as they tell"


def test_at_its_end_a_node_tells_which_of_its_ranks_failed_and_which_ended_without_a_word(tmp_path):
    """Rank 1 was killed; rank 0 stopped because of it; what an earlier start left is passed over."""
    assert describe_end(tmp_path, 0.0) == "no rank has come so far as to write where it is"
    now, gone = (
        time.time(),
        {"host": host_name(), "pid": 2**22 + 1, "world_size": 2, "written": 0.0},
    )
    because = "failed in a collective: PeerError: rank 1 has gone"
    write_status(tmp_path, status(0, end=because, **(gone | {"written": now})))
    write_status(tmp_path, status(1, phase="step/train", **(gone | {"written": now - 2})))
    assert describe_end(tmp_path, now).startswith(
        f"rank 1 ({host_name()}, pid {2**22 + 1}): not heard"
    )
    assert describe_end(tmp_path, now).endswith("last in step/train; its process has ended")
    assert describe_end(tmp_path, now + 600).startswith("no rank has come so far")


def test_nobody_is_named_while_nobody_waits_or_when_all_have_come():
    assert find_stragglers([status(0, num_collectives=7), status(1, num_collectives=7)], NOW) == []
    all_here = [waiting(rank, 8) for rank in range(4)]
    assert find_stragglers(all_here, NOW) == []
    assert "4 ranks wait, and nobody is behind: the network" in describe_stragglers(all_here, NOW)


def test_a_rank_that_has_failed_or_fell_silent_is_named_however_far_it_had_come():
    failed = status(1, num_collectives=9, end="failed: ValueError: no disk")
    silent = waiting(2, 8, written=NOW - SILENT_AFTER_S - 1)
    told = describe_stragglers([waiting(0, 8), failed, silent, waiting(3, 8)], NOW)
    assert told == (
        "2 ranks wait for rank 1 (node0, pid 101): failed: ValueError: no disk; rank 2 (node1, pid 102): not heard of "
        f"for 21 s (since {since(21)}), last in start, waiting for all ranks; its process has ended or stands "
        "still, or its node is lost"
    )


def since(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(NOW - seconds))


def test_the_rank_that_was_killed_is_named_and_not_those_that_torchrun_ended_after_it():
    """Rank 2's memory was out, so the kernel ended it; torchrun sent SIGTERM to the six beside it."""
    ended = [
        status(r, world_size=7, end="failed: KeyboardInterrupt: SIGTERM", written=NOW - r)
        for r in (0, 1, 3, 4, 5, 6)
    ]
    killed = status(2, world_size=7, written=NOW - 30, phase="start")
    told = describe_stragglers([*ended, killed], NOW)
    assert told.startswith("rank 2 (node1, pid 102): not heard of for 30 s") and ";" in told
    assert "SIGTERM" not in told
    alone = describe_stragglers(ended, NOW)
    assert alone.startswith("rank 6 (node3, pid 106): failed: KeyboardInterrupt: SIGTERM"), "first"


def test_a_silent_rank_is_named_also_while_nobody_waits():
    """Each main thread waits for its GPU, as far as can be seen: rank 1 of two has not written for 30 s."""
    silent = status(1, phase="step/train", written=NOW - 30)
    assert find_stragglers([status(0, phase="step/train"), silent], NOW) == [silent]


def test_a_rank_in_one_of_megatrons_collectives_waits_and_the_one_beside_it_at_work_is_named():
    at_work = status(
        1, world_size=2, num_collectives=7, phase="step/train", phase_s=40.0, at="data.py:3 read"
    )
    waits = waiting(0, 7, "others in finish_grad_sync", world_size=2)
    told = describe_stragglers([waits, at_work], NOW)
    assert told == (
        "1 rank waits for rank 1 (node0, pid 101): in step/train for 40 s, at data.py:3 read"
    )


def test_a_rank_alone_that_waits_for_a_server_says_so():
    calls = "waiting for server dp0.s0 (http://a:1): 8 calls (/generate) without an answer for 43 s"
    alone = status(0, world_size=1, phase="step/rollout", phase_s=50, calls=calls)
    told = describe_stragglers([alone], NOW)
    assert told == f"rank 0 (node0, pid 100): in step/rollout for 50 s, {calls}"


def test_the_rank_in_another_phase_is_shown_where_nobody_tells_of_waiting():
    ranks = [status(r, phase="step/train") for r in (0, 1, 3)] + [status(2, phase="step/batch")]
    assert describe_phases(ranks) == "3 are in step/train, 1 in step/batch: rank 2 (node1, pid 102)"
    assert describe_phases(ranks[:2]) == "all ranks are there"


def test_a_rank_that_never_wrote_is_counted():
    told = describe_stragglers([waiting(0, 1), waiting(1, 1), waiting(2, 1)], NOW)
    assert told == "3 ranks wait for 1 rank (3) that has never written"


def test_what_a_run_of_another_size_has_left_is_passed_over(tmp_path):
    """Two ranks go on with a run that had three: rank 2 is not missing. Nor is what a start before this one has left
    of rank 1 taken for this one's."""
    for rank in range(3):
        write_status(tmp_path, status(rank, world_size=3, written=NOW - 600))
    for rank in range(2):
        write_status(tmp_path, status(rank, world_size=2, written=NOW, run="first"))
    assert [(s.rank, s.world_size) for s in read_statuses(tmp_path)] == [(0, 2), (1, 2)]
    write_status(tmp_path, status(0, world_size=2, written=NOW + 1, run="second"))
    assert [(s.rank, s.run) for s in read_statuses(tmp_path)] == [(0, "second")]
    observer = StatusObserver(tmp_path, 2, "second")
    assert [s.rank for s in observer.look()] == [0]


def test_a_file_of_another_version_is_read_as_far_as_it_is_known(tmp_path):
    write_status(tmp_path, status(0, phase="step/train"))
    file = status_file(tmp_path, 0)
    words = json.loads(file.read_text()) | {"mood": "good"}
    del words["at"], words["run"], words["still_s"]
    file.write_text(json.dumps(words))
    assert read_statuses(tmp_path) == [status(0, phase="step/train")]
    for damaged in (
        "",
        "{",
        "[]",
        '{"rank": 0}',
        '{"rank": "0", "world_size": 1, "host": "a", "pid": 1}',
    ):
        file.write_text(damaged)
        assert read_statuses(tmp_path) == []


def test_a_rank_whose_clock_is_behind_is_heard_of_and_a_dead_one_beside_it_is_not(tmp_path):
    """Both files say that they are five minutes old; rank 0 goes on writing."""
    behind = time.time() - 300
    for rank in range(2):
        write_status(tmp_path, status(rank, world_size=2, written=behind))
    writer = threading.Timer(
        0.4, write_status, (tmp_path, status(0, world_size=2, written=behind + 5))
    )
    writer.start()
    alive, dead = look_again(tmp_path, read_statuses(tmp_path), limit_s=2.0)
    assert not alive.is_silent(time.time())
    assert alive.age_s(time.time()) < 2.5
    assert dead.is_silent(time.time())
    assert dead.age_s(time.time()) >= 300
    started = time.monotonic()
    look_again(tmp_path, [status(0, written=time.time())], limit_s=30)
    assert time.monotonic() - started < 5, "where none is in doubt nothing is waited for"


def test_many_late_ranks_are_counted_not_listed():
    ranks = [waiting(0, 9, world_size=7)] + [
        status(r, num_collectives=8, world_size=7) for r in range(1, 7)
    ]
    assert describe_stragglers(ranks, NOW).endswith("; and 2 more")


def test_the_next_rank_is_missed_once_after_as_many_intervals_as_it_may_be_silent(tmp_path):
    """15 s of intervals of 5 s: three looks at the same file. One that ended, or writes again, is not missed."""
    watch = RankWatch(rank=3, world_size=4)
    watch.run = "second"
    write_status(tmp_path, status(0, run="second"))
    next_rank = NextRank(watch, tmp_path, 15.0, 5.0)  # after the last rank 0
    assert [next_rank.has_fallen_silent() for _ in range(5)] == [False, False, False, True, False]
    write_status(tmp_path, status(0, run="second", written=NOW + 5))
    assert [next_rank.has_fallen_silent() for _ in range(3)] == [False, False, False]
    assert next_rank.has_fallen_silent()
    write_status(tmp_path, status(0, run="second", written=NOW + 5, end="ended"))
    assert not any(next_rank.has_fallen_silent() for _ in range(5))
    write_status(tmp_path, status(0, run="first"))  # in this start it has not written
    assert [next_rank.has_fallen_silent() for _ in range(4)] == [False, False, False, True]


def test_phases_nest_and_a_collective_is_seen_while_it_lasts():
    watch = RankWatch(rank=3, world_size=4)
    with watch.phase("wait for servers"):
        pass
    assert watch.status().phase == "start", "no step has begun"
    watch.steps_done = 0
    with watch.phase("step"), watch.phase("train"), watch.collective("all ranks", is_of_all=True):
        inside = watch.status()
    assert (inside.phase, inside.waits_for, inside.num_collectives) == (
        "step/train",
        "all ranks",
        1,
    )
    with watch.collective("its replica"):
        pass
    after = watch.status()
    assert (after.phase, after.waits_for, after.num_collectives) == ("between phases", "", 1)


def test_a_wait_is_long_when_it_is_twice_the_longest_of_its_phase(tmp_path, caplog):
    """Of the rollouts the longest wait was 0.6 s: the next is told from 1.2 s on, a wait while training at once."""
    watch = RankWatch(rank=0, world_size=2)
    with watch.writing(tmp_path, report_after_s=0.05, every_s=0.02):
        with watch.phase("rollout"):
            with watch.collective("all ranks"):
                time.sleep(0.6)
            caplog.clear()
            with watch.collective("all ranks"):
                time.sleep(0.2)
        assert watch.longest_wait_s("rollout") >= 0.6
        assert caplog.text == ""
        with watch.phase("train"), watch.collective("all ranks"):
            wait_until(
                lambda: "waiting for all ranks for 0 s in train: 1 rank waits" in caplog.text
            )


def test_the_end_of_a_rank_is_written_with_its_reason(tmp_path):
    watch = RankWatch(rank=0, world_size=1)
    with pytest.raises(ValueError, match="no disk"), watch.writing(tmp_path, report_after_s=0):
        raise ValueError("no disk")
    assert read_statuses(tmp_path)[0].end == "failed: ValueError: no disk"
    with watch.writing(tmp_path, report_after_s=0):
        pass
    assert read_statuses(tmp_path)[0].end == "ended"


def test_a_file_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog):
    watch = RankWatch(rank=0, world_size=1)
    folder = tmp_path / "status"
    with watch.writing(folder, report_after_s=0, every_s=0.05):
        moved = folder.rename(tmp_path / "moved")
        wait_until(lambda: "cannot be written" in caplog.text)
        moved.rename(folder)
    assert read_statuses(folder)[0].end == "ended"


def test_every_rank_shows_its_stack_when_the_file_is_touched_and_on_usr2(tmp_path, capfd):
    watch = RankWatch(rank=5, world_size=8)
    with watch.writing(tmp_path, report_after_s=0, every_s=0.05):
        time.sleep(0.02)
        (tmp_path / STACKS_REQUEST).touch()
        wait_until(stacks_file(tmp_path, 5).exists)
        assert "in wait_until" in stacks_file(tmp_path, 5).read_text()
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_until(lambda: True)
    assert threading.active_count() >= 1
    assert "rank_watch.py" in capfd.readouterr().err


def test_a_request_for_stacks_is_heard_however_late_the_clock_of_the_file_system_is(tmp_path):
    request = tmp_path / STACKS_REQUEST
    request.touch()
    os.utime(request, (NOW, NOW))  # of an earlier start
    with RankWatch(5, 8).writing(tmp_path, report_after_s=0, every_s=0.05):
        wait_until(status_file(tmp_path, 5).exists)
        time.sleep(0.2)
        assert not stacks_file(tmp_path, 5).exists()
        os.utime(request, (NOW + 60, NOW + 60))
        wait_until(stacks_file(tmp_path, 5).exists)


def wait_until(condition, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _rank(rank: int, folder: str, results) -> None:
    """Rank 1 sits in its rollout for longer than rank 0's limit."""
    logging.basicConfig(filename=f"{folder}/rank_{rank}.log", level=logging.INFO)
    dist.init_process_group("gloo", store=FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    ranks = Ranks(ParallelLayout(world_size=2, rank=rank), timeout_s=4)
    error = ""
    with ranks.watch.writing(Path(folder) / "status", report_after_s=0.5, every_s=0.1):
        try:
            if rank == 1:
                with ranks.watch.phase("rollout"):
                    time.sleep(6)
            else:
                ranks.barrier()
        except PeerError as raised:
            error = str(raised)
    results.put((rank, error))


def test_a_rank_that_does_not_come_is_named_while_others_wait_and_when_they_give_up(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_rank, args=(r, str(tmp_path), results)) for r in (0, 1)]
    for process in processes:
        process.start()
    errors = dict(results.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(30)
    pid = processes[1].pid
    assert errors[0].startswith(
        "a collective of rank 0 with all ranks failed: Timed out waiting 4000ms"
    )
    assert (
        f"1 rank waits for rank 1 ({os.uname().nodename}, pid {pid}): in rollout for" in errors[0]
    )
    (line, *_) = (tmp_path / "rank_0.log").read_text().splitlines()
    assert "waiting for all ranks for " in line
    assert f"rank 1 ({os.uname().nodename}, pid {pid}): in rollout for" in line
    last = read_status(tmp_path / "status/rank_00001.json")
    assert last is not None
    assert last.end == "ended"


def test_joining_alone_says_how_to_find_the_others(tmp_path, monkeypatch):
    from megatron_ar3po.distributed.collectives import start_process_group

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(PeerError, match="1/2 clients joined"):
        start_process_group(2.0)


def test_a_status_that_cannot_be_written_at_the_end_does_not_hide_what_ended_the_run(tmp_path):
    folder = tmp_path / "status"
    watch = RankWatch(0, 1)
    with (
        pytest.raises(ValueError, match="the true cause"),
        watch.writing(folder, report_after_s=0, every_s=60),
    ):
        while not read_statuses(folder):
            time.sleep(0.01)
        shutil.rmtree(folder)
        raise ValueError("the true cause")


def test_an_error_of_this_rank_alone_names_who_has_failed_and_not_who_is_at_work(tmp_path):
    """Rank 1 waits in Megatron, rank 2 is at work still: neither has a part in rank 0's error. Rank 2's end has."""
    watch, now, three = RankWatch(0, 3), time.time(), {"world_size": 3, "written": time.time()}
    with watch.writing(tmp_path, report_after_s=0):
        write_status(tmp_path, waiting(1, 0, "others in all_reduce", **three))
        write_status(tmp_path, status(2, phase="step/train", **three))
        watch.name_missing(error := ValueError("a bug"))
        assert notes_of(error) == []
        write_status(tmp_path, status(2, **(three | {"end": "failed: OSError: x", "written": now})))
        watch.name_missing(error)
        assert notes_of(error) == ["Meanwhile rank 2 (node1, pid 102): failed: OSError: x."]


def test_who_looks_for_silent_ranks_while_its_own_ends_does_not_write_over_its_end(tmp_path):
    """Rank 1 is dead, so the look takes 2.7 s and writes each 0.1 s; rank 0 ends in the middle."""
    watch = RankWatch(0, 2)
    write_status(tmp_path, status(1, world_size=2))
    looking = threading.Thread(target=watch.describe_stragglers)
    with watch.writing(tmp_path, report_after_s=0, every_s=0.2):
        wait_until(status_file(tmp_path, 0).exists)
        looking.start()
        time.sleep(0.5)
    looking.join(20)
    assert read_statuses(tmp_path)[0].end == "ended"


def test_two_thousand_silent_files_are_not_read_again_and_again(tmp_path):
    """Within 6.5 s they are read six times, once in two seconds, not 26 times."""
    watch = RankWatch(0, 2000)
    for rank in range(2000):
        write_status(tmp_path, status(rank, world_size=2000))
    observer = StatusObserver(tmp_path, 2000, "")
    began = time.thread_time()
    observer.look()
    look_s = time.thread_time() - began
    with watch.writing(tmp_path, report_after_s=0, every_s=4.0):
        began = time.thread_time()
        told = watch.describe_stragglers()
        spent_s = time.thread_time() - began
    assert told.endswith("and 1995 more")
    assert spent_s < 12 * look_s


def _fail_in_torch(rank: int, folder: str, results) -> None:
    """Rank 0 waits in torch's own all_reduce, which nobody announces; rank 1 stands still, and is killed then."""
    logging.basicConfig(filename=f"{folder}/rank_{rank}.log", level=logging.INFO)
    dist.init_process_group("gloo", store=FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    ranks = Ranks(ParallelLayout(world_size=2, rank=rank), timeout_s=90)
    with ranks.watch.writing(Path(folder) / "status", report_after_s=1.2, every_s=0.2):
        with ranks.watch.phase("train"):
            if rank == 1:
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGSTOP)
            error = None
            try:
                dist.all_reduce(torch.zeros(1))
            except RuntimeError as raised:
                error = raised
        assert error is not None
        ranks.watch.name_missing(error)
        results.put((str(error), notes_of(error)))
        vars(error).clear()
        ranks.watch.name_missing(ranks.watch.agree(error))
        results.put(notes_of(error))


def test_a_rank_that_stands_still_is_named_by_the_one_that_waits_for_it_in_torch_itself(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_fail_in_torch, args=(r, str(tmp_path), results)) for r in (0, 1)
    ]
    for process in processes:
        process.start()
    pid = processes[1].pid
    assert pid is not None
    who = f"rank 1 ({os.uname().nodename}, pid {pid}): not heard of for "
    log = tmp_path / "rank_0.log"
    waits = "waiting for others in all_reduce for"
    wait_until(lambda: log.exists() and waits in log.read_text(), 90)
    wait_until(lambda: who in log.read_text())
    told = log.read_text()
    assert "last in train; its process stands still (stopped by a signal; kill -CONT" in told
    processes[1].kill()
    said, notes = results.get(timeout=60)
    assert "peer" in said
    [note] = notes
    assert note.startswith(f"Meanwhile {who}")
    assert note.endswith("last in train; its process has ended.")
    assert results.get(timeout=60) == [], "of what all have agreed on nobody is missing"
    for process in processes:
        process.join(30)

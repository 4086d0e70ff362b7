"""`ar3po status`, from files of ranks that hang on node17. That real ranks write such files: tests/unit/distributed and
tests/slurm.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

from megatron_ar3po import cli
from megatron_ar3po.distributed.rank_status import (
    RankStatus,
    read_statuses,
    stacks_file,
    write_status,
)
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.distributed.watch_thread import STACKS_REQUEST
from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.reporting.status import (
    gather_stacks,
    lines_of,
    main_thread_frames,
    stack_lines,
)


def thirty_two_ranks(now: float) -> list[RankStatus]:
    """Four nodes of eight; rank 17's replica (16 to 23) has not left its rollout, the others have."""
    ranks = []
    for rank in range(32):
        common = RankStatus(
            rank=rank, world_size=32, host=f"node{15 + rank // 8}", pid=4000 + rank, steps_done=11,
            phase="step/rollout", phase_s=310.0, num_collectives=84, written=now - 2,
        )  # fmt: skip
        if rank // 8 != 2:
            common = replace(common, num_collectives=85, waits_for="all ranks", waits_s=250.0)
        elif rank != 16:
            common = replace(common, waits_for="its replica", waits_s=310.0)
        ranks.append(common)
    return ranks


TABLE = """\
32 of 32 ranks on 4 nodes, 11 steps done
ranks        nodes                   is                                     seconds
0-15, 24-31  node15, node16, node18  step/rollout, waiting for all ranks        252
16           node17                  step/rollout                               312  <- the others wait
17-23        node17                  step/rollout, waiting for its replica      312
31 ranks wait for rank 16 (node17, pid 4016): in step/rollout for 312 s"""


def test_one_line_for_all_that_do_the_same_and_the_one_they_wait_for():
    now = time.time()
    assert "\n".join(lines_of(thirty_two_ranks(now), now)) == TABLE


def test_a_run_at_its_end_says_so_and_a_failed_rank_is_shown_with_its_reason():
    now = time.time()
    done = [replace(s, end="ended") for s in thirty_two_ranks(now)]
    assert list(lines_of(done, now, marker="DONE"))[-1] == "the run is DONE"
    ranks = thirty_two_ranks(now)
    ranks[16] = replace(ranks[16], end="failed: RolloutEngineError: server dp2.s0 died")
    text = "\n".join(lines_of(ranks, now))
    assert "node17                  failed: RolloutEngineError: server dp2.s0 died" in text
    assert text.endswith(
        "rank 16 (node17, pid 4016): failed: RolloutEngineError: server dp2.s0 died"
    )


def write(run: Path, ranks: list[RankStatus]) -> None:
    (run / "status").mkdir()
    for status in ranks:
        write_status(run / "status", status)


def test_the_command_exits_1_when_a_rank_is_not_heard_of(tmp_path, capsys):
    now = time.time()
    write(tmp_path, thirty_two_ranks(now))
    assert cli.main(["status", str(tmp_path)]) == 0
    write_status(tmp_path / "status", replace(thirty_two_ranks(now)[16], written=now - 7200))
    assert cli.main(["status", str(tmp_path)]) == 1
    assert "silent, last in step/rollout" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["awaited"] == [16]
    assert shown["ranks"][16]["host"] == "node17"
    assert shown["ranks"][16]["meetings"] == 84  # as in the files, which keep their keys


def test_the_process_that_owns_the_folder_is_named_as_long_as_it_lives(tmp_path, capsys):
    write(tmp_path, thirty_two_ranks(time.time()))
    owner = FolderOwner.claim(tmp_path)
    assert cli.main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"the folder is owned by process {os.getpid()} on {socket.gethostname()}" in out
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["owner"]["pid"] == os.getpid()
    owner.release()
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["owner"] is None


def test_a_folder_without_ranks_is_refused_with_where_to_look(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "holds no status of any rank" in capsys.readouterr().err
    assert cli.main(["status", str(tmp_path / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err


def write_node_logs(run: Path, job: str, *texts: str) -> None:
    folder = run / "logs" / job
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"node_{number}.log").write_text(text)


READY = (
    "preflight: node node1: disk: 74 GiB free\npreflight: node node1: ready\n"
    "[node] python -m torch.distributed.run\n"
)
TAKEN = "preflight: node node2: clock: +0.1 s\npreflight: node node2: port 23456 is taken"


def test_of_a_run_that_never_began_each_node_is_shown_with_what_it_said_last(tmp_path, capsys):
    write_node_logs(tmp_path, "job_7/restart_0", READY, TAKEN)
    assert cli.main(["status", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"no rank of {tmp_path} has begun" in told
    assert "  node_0: [node] python -m torch.distributed.run\n" in told
    assert "  node_1: preflight: node node2: port 23456 is taken\n" in told


def test_a_job_that_began_after_the_last_rank_had_written_is_told_from_the_one_before(
    tmp_path, capsys
):
    """Restart 0 ended ten minutes ago; of restart 1 no rank has begun."""
    ended = replace(thirty_two_ranks(time.time() - 600)[0], world_size=1, end="failed: OSError: x")
    write(tmp_path, [ended])
    write_node_logs(tmp_path, "job_7/restart_1", TAKEN)
    assert cli.main(["status", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "this is from before job_7 restart_1, of which no rank has begun" in told
    assert "  node_0: preflight: node node2: port 23456 is taken" in told


def test_where_no_rank_writes_any_more_the_first_and_what_its_nodes_said_are_told(tmp_path, capsys):
    """Slurm ended both ranks because node2 was lost, two hours ago."""
    write_node_logs(
        tmp_path,
        "job_7/restart_0",
        f"{READY}slurmstepd-node1: error: *** CANCELLED DUE TO NODE FAILURE",
    )
    then = time.time() - 7200
    os.utime(tmp_path / "logs/job_7/restart_0", (then - 99, then - 99))
    ranks = [replace(s, world_size=2, written=then - s.rank) for s in thirty_two_ranks(then)[:2]]
    write(tmp_path, ranks)
    assert cli.main(["status", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert (
        "no rank writes any more, rank 1 (node15, pid 4001) was the first: the job has ended"
        in told
    )
    assert "  node_0: slurmstepd-node1: error: *** CANCELLED DUE TO NODE FAILURE" in told
    (tmp_path / "DONE").touch()
    assert cli.main(["status", str(tmp_path)]) == 0, "a run that is done is in no trouble"


def test_ranks_that_show_no_stack_are_named_before_those_that_do():
    now = time.time()
    alive, deaf, silent, ended = (replace(s, world_size=5) for s in thirty_two_ranks(now)[:4])
    deaf = replace(deaf, waits_for="", at="weird.py:3 spin")
    silent = replace(silent, written=now - 40)
    ended = replace(ended, end="ended")
    lines = list(stack_lines({0: DUMP}, [alive, deaf, silent, ended], now))
    assert lines[1].startswith(
        "no stack of rank 1 (node15, pid 4001): in step/rollout for 312 s, at weird.py"
    )
    assert lines[1].endswith("py-spy dump --pid 4001 on node15 shows it from outside")
    assert lines[3].startswith(
        "no stack of rank 2 (node15, pid 4002): not heard of for 40 s (since "
    )
    assert lines[5] == "no stack of rank 4, which has never written"
    assert lines[7] == "rank 0 is at"


DUMP = """\
Thread 0x00007f01 (most recent call first):
  File "/opt/megatron_ar3po/distributed/rank_watch.py", line 9 in _show_stacks_if_asked
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 468 in select
  File "/opt/megatron_ar3po/rollout/controller.py", line 88 in collect
  File "/opt/megatron_ar3po/trainer.py", line 12 in run
"""


def test_ranks_at_the_same_place_share_one_stack_and_the_odd_one_comes_first():
    other = DUMP.replace("rollout/controller.py", "distributed/collectives.py")
    assert main_thread_frames(DUMP)[1] == "rollout/controller.py:88 collect"
    lines = list(stack_lines({0: other, 1: other, 2: DUMP, 3: other}, [], 0.0))
    assert lines[1] == "rank 2 is at"
    assert "    rollout/controller.py:88 collect" in lines
    assert "ranks 0-1, 3 are at" in lines


def test_stacks_are_asked_for_by_a_file_and_shown(tmp_path, capsys):
    """A real watch answers, of this process."""
    watch = RankWatch(rank=0, world_size=1)
    with watch.writing(tmp_path / "status", report_after_s=0, every_s=0.05):
        deadline = time.monotonic() + 30  # its thread may be late on a busy machine
        while not read_statuses(tmp_path / "status") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cli.main(["status", str(tmp_path), "--stacks"]) == 0
    assert (tmp_path / "status" / STACKS_REQUEST).exists()
    assert stacks_file(tmp_path / "status", 0).exists()
    out = capsys.readouterr().out
    assert "1 of 1 ranks on 1 nodes, before its first step" in out
    assert "rank 0 is at" in out
    assert "reporting/status.py" in out


def test_the_slowest_rank_of_a_run_is_the_one_that_has_waited_least_for_the_others():
    """30 s of 31 ranks, 2 s of rank 9: named. Of a run whose ranks are as fast as each other none is."""
    now = time.time()
    ranks = [
        replace(s, waits_for="", waited_s=2.0 if s.rank == 9 else 30.0)
        for s in thirty_two_ranks(now)
    ]
    assert list(lines_of(ranks, now))[-1] == (
        "rank 9 (node16, pid 4009) has waited 2 s for others since its first step, and half of the ranks 30 s or more: "
        "it is the slowest"
    )
    even = [replace(s, waited_s=25.0 + s.rank) for s in ranks]
    assert list(lines_of(even, now))[-1] == "no rank waits for another"


def test_the_table_names_the_server_and_the_sentence_says_what_became_of_it():
    now = time.time()
    calls = "waiting for server dp0.s0 (http://a:1): 2 calls (/generate) without an answer for 9 s"
    alone = replace(thirty_two_ranks(now)[16], rank=0, world_size=1, calls=calls, waits_for="")
    _, _, row, told = lines_of([alone], now)
    assert row == "0      node17  step/rollout, waiting for server dp0.s0      312"
    assert told.endswith(f"in step/rollout for 312 s, {calls}")


def test_stacks_are_taken_however_late_the_clock_of_the_file_system_is_and_old_ones_are_not(
    tmp_path,
):
    """The files of the ranks seem an hour old; rank 1 has shown its stack yesterday, and not now."""
    ranks = [replace(s, world_size=2, written=0.0) for s in thirty_two_ranks(0.0)[:2]]
    stacks_file(tmp_path, 1).write_text("of yesterday")

    def show() -> None:
        (tmp_path / "whole").write_text(DUMP)
        then = time.time() - 3600
        os.utime(tmp_path / "whole", (then, then))
        (tmp_path / "whole").rename(stacks_file(tmp_path, 0))

    threading.Timer(0.5, show).start()
    assert gather_stacks(tmp_path, ranks) == {0: DUMP}


def test_a_start_that_goes_on_with_a_stopped_run_is_shown_while_its_marker_is_there(
    tmp_path, capsys
):
    """The run was stopped ten minutes ago; now rank 16 of the next start is silent before its first step."""
    (tmp_path / "STOPPED").touch()
    then = time.time() - 600
    os.utime(tmp_path / "STOPPED", (then, then))
    ranks = thirty_two_ranks(time.time())
    write(tmp_path, [*ranks[:16], replace(ranks[16], written=time.time() - 7200), *ranks[17:]])
    assert cli.main(["status", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "ranks wait for rank 16 (node17, pid 4016): not heard of for 7200 s" in told
    (tmp_path / "STOPPED").touch()
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the run is STOPPED"

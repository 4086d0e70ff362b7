"""Which node a job failed of, from what srun, the nodes and the ranks have left in its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.distributed.rank_status import RankStatus, write_status
from megatron_ar3po.launch.failed_node import Cause, find_cause

NODES = ("node1", "node2")
BEGAN = 1_000.0


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Of the second start of a job, whose run has saved step 4 before and has come to step 6 now."""
    folder = tmp_path / "logs/job_7/restart_1"
    folder.mkdir(parents=True)
    for step, when in ((4, BEGAN - 100), (5, BEGAN + 100)):
        checkpoint = tmp_path / f"checkpoints/step_{step:05d}"
        checkpoint.mkdir(parents=True)
        os.utime(checkpoint, (when, when))
    (tmp_path / "status").mkdir()
    return folder


def say_srun(logs: Path, *lines: str) -> None:
    head = "srun: cluster configuration lacks support for cpu binding\n"
    (logs / "srun.log").write_text(head + "".join(f"srun: error: {line}\n" for line in lines))


def write_ranks(
    run: Path, *ends: str, steps_done: int, written: tuple[float, ...] = (BEGAN + 160,) * 2
) -> None:
    for rank, end in enumerate(ends):
        status = RankStatus(
            rank=rank, world_size=len(ends), host=NODES[rank], pid=70 + rank, end=end, written=written[rank],
            steps_done=steps_done, phase="step/train",
        )  # fmt: skip
        write_status(run / "status", status)


def find(run: Path, logs: Path, earlier: str = "") -> Cause:
    return find_cause(run, logs, NODES, began=BEGAN, earlier=earlier)


def test_the_first_task_that_fails_names_its_node_once_a_step_was_made(tmp_path, logs):
    say_srun(logs, "node2: task 1: Exited with exit code 1", "node1: task 0: Terminated")
    write_ranks(tmp_path, "failed: OSError", "failed: OSError", steps_done=6)
    assert find(tmp_path, logs) == Cause(
        "node2",
        "node2 failed first (Exited with exit code 1), 2 steps after the job's start",
        True,
    )
    write_ranks(tmp_path, "failed: OSError", "failed: OSError", steps_done=4)
    assert not find(tmp_path, logs).may_go_on


def test_a_rank_that_the_others_waited_for_is_to_blame_and_not_who_ended_first(tmp_path, logs):
    say_srun(logs, "node1: task 0: Exited with exit code 1", "node2: task 1: Killed")
    gave_up = "failed in a collective: RuntimeError: Timed out"
    write_ranks(tmp_path, gave_up, "", steps_done=4, written=(BEGAN + 160, BEGAN + 85))
    said = "rank 1 (node2, pid 71), in step/train, last heard of 75 s before they gave up"
    assert find(tmp_path, logs) == Cause("node2", f"the others waited for {said}", True)


def test_a_rank_that_wakes_as_slurm_ends_it_stays_to_blame(tmp_path, logs):
    """A stopped process goes on then, finds the others gone, and says that it gave up as well."""
    say_srun(logs, "node1: task 0: Exited with exit code 1", "node2: task 1: Killed")
    who = "rank 1 (node2, pid 71): not heard of for 80 s (since 23:27:52), last in step"
    first = (
        f"failed in a collective: PeerError: Timed out. 1 rank waits for {who}; its node is lost"
    )
    last = "failed in a collective: PeerError: rank 0 (node1, pid 70) has gone"
    write_ranks(tmp_path, first, last, steps_done=4, written=(BEGAN + 160, BEGAN + 170))
    assert find(tmp_path, logs) == Cause("node2", f"the others waited for {who}", True)


def test_a_rank_that_failed_by_itself_is_to_blame_before_those_that_failed_with_it(tmp_path, logs):
    say_srun(logs, "node1: task 0: Exited with exit code 1", "node2: task 1: Killed")
    with_it = "failed in a collective: PeerError: rank 1 failed"
    write_ranks(tmp_path, with_it, "failed: RuntimeError: CUDA error", steps_done=5)
    said = "rank 1 (node2, pid 71): failed: RuntimeError: CUDA error"
    assert find(tmp_path, logs) == Cause("node2", f"the others waited for {said}", True)
    write_ranks(tmp_path, with_it, "failed: RuntimeError: CUDA error", steps_done=4)
    assert not find(tmp_path, logs).may_go_on  # before its first step it would fail anywhere


def test_what_ranks_of_an_earlier_start_have_left_blames_nobody(tmp_path, logs):
    say_srun(logs, "node1: task 0: Killed")
    gave_up = "failed in a collective: TimeoutError"
    write_ranks(tmp_path, gave_up, "", steps_done=9, written=(BEGAN - 1, BEGAN - 60))
    assert find(tmp_path, logs) == Cause(
        "node1", "node1 failed first (Killed), 0 steps after the job's start", False
    )


def test_a_node_that_was_not_ready_is_named_with_its_problem(tmp_path, logs):
    say_srun(logs, "node2: task 1: Exited with exit code 3", "node1: task 0: Terminated")
    (logs / "node_1.log").write_text("preflight: node node2: 7 GPUs answer; drain the node.\n")
    reason = "not ready: 7 GPUs answer; drain the node."
    assert find(tmp_path, logs) == Cause("node2", reason, True)
    assert not find(tmp_path, logs, earlier=reason).may_go_on


@pytest.mark.parametrize(
    "lines",
    [
        ["node1: task 0: Exited with exit code 3", "node2: task 1: Exited with exit code 3"],
        ["node[1-2]: tasks 0-1: Exited with exit code 3"],
        ["node1: task 0: Exited with exit code 2"],
        [],
    ],
)
def test_what_no_other_node_would_mend_is_not_tried_again(lines, tmp_path, logs):
    say_srun(logs, *lines)
    cause = find(tmp_path, logs)
    assert (cause.node, cause.may_go_on) == ("", False)


def test_the_command_prints_node_and_reason_and_ends_with_3_where_it_is_of_no_use(
    tmp_path, logs, capsys
):
    words = ["launch", "failed-node", str(tmp_path), str(logs), "--nodes=node1,node2"]
    assert main(words) == 3
    assert capsys.readouterr().out.startswith("-\na task failed first (srun does not say how)")
    say_srun(logs, "node2: task 1: Killed")
    write_ranks(tmp_path, "", "", steps_done=8)
    assert main([*words, f"--began={BEGAN}"]) == 0
    assert capsys.readouterr().out.startswith("node2\nnode2 failed first (Killed), 4 steps after")


def test_two_nodes_of_three_that_are_not_ready_at_once_are_not_all(tmp_path, logs):
    """srun names them as node[1-2]."""
    say_srun(logs, "node[1-2]: tasks 0-1: Exited with exit code 3")
    cause = find_cause(tmp_path, logs, ["node1", "node2", "node3"], began=BEGAN)
    assert (cause.node, cause.may_go_on) == ("node1", True)


def test_a_reason_is_one_line_though_an_error_has_several(tmp_path, logs, capsys):
    """launch.sh counts the lines."""
    say_srun(logs, "node1: task 0: Exited with exit code 1")
    gave_up = "failed in a collective: RuntimeError: Timed out"
    write_ranks(tmp_path, gave_up, "failed: OSError: a\nb", steps_done=6)
    words = ["--nodes=node1,node2", f"--began={BEGAN}"]
    assert main(["launch", "failed-node", str(tmp_path), str(logs), *words]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "the others waited for rank 1 (node2, pid 71): failed: OSError: a b"
    ]

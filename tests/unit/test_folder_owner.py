"""Who owns a folder, who may take it over, and that one who lost it writes nothing more. Hosts are played by notes;
that a whole run is refused beside another one is shown in tests/e2e/test_run_owner.py."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.folder_owner import (
    NAME,
    FolderOwnedError,
    FolderOwner,
    Owner,
    check_owner,
    living_owner,
    read_owner,
    this_process,
    write_note,
)


def elsewhere(**changes: object) -> Owner:
    """A process on another node."""
    base = replace(this_process(), host="node17", pid=4711, namespace="pid:[1]", token="aa")
    return replace(base, **changes)


def leave_note(folder: Path, owner: Owner, *, age_s: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_note(folder / NAME, owner)
    then = time.time() - age_s
    os.utime(folder / NAME, (then, then))


def assert_taken_over(folder: Path, me: Owner | None = None) -> None:
    owner = FolderOwner.claim(folder, me=me)
    assert read_owner(folder) == owner.owner
    owner.release()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def test_a_free_folder_is_claimed_and_let_go(tmp_path):
    owner = FolderOwner.claim(tmp_path / "run")
    assert read_owner(tmp_path / "run") == owner.owner
    check_owner(tmp_path / "run", owner.owner.token)
    owner.release()
    owner.release()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_process_is_refused_within_a_second_by_name_and_changes_nothing(tmp_path):
    owner = FolderOwner.claim(tmp_path, heartbeat_s=60)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    before, started = contents(tmp_path), time.monotonic()
    with pytest.raises(
        FolderOwnedError, match=rf"process {os.getpid()} on .*\(this very process\)"
    ):
        FolderOwner.claim(tmp_path)
    assert time.monotonic() - started < 1.0
    assert contents(tmp_path) == before
    owner.release()


def test_a_process_that_is_gone_on_this_host_is_taken_over_from(tmp_path):
    program = "import sys; from pathlib import Path; from megatron_ar3po.folder_owner import *; "
    program += "FolderOwner.claim(Path(sys.argv[1])); import os; os._exit(9)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, timeout=60)
    assert done.returncode == 9 and read_owner(tmp_path) is not None
    assert_taken_over(tmp_path)


def test_a_process_number_that_was_given_again_is_not_the_owner(tmp_path):
    me = this_process()
    leave_note(tmp_path, replace(me, started=me.started - 100, token="old"))
    assert_taken_over(tmp_path)


def test_a_container_with_the_same_hosts_name_is_not_this_host(tmp_path):
    """Its process numbers say nothing here: only its heartbeat does."""
    leave_note(tmp_path, replace(this_process(), pid=2**22 - 1, namespace="pid:[1]", token="aa"))
    with pytest.raises(FolderOwnedError, match="heard of 0 s ago"):
        FolderOwner.claim(tmp_path)


@pytest.mark.parametrize(
    ("there", "me", "why"),
    [
        ({"restart": 0}, {"restart": 1}, ""),
        ({"restart": 2}, {"restart": 1}, "a later restart of this very job"),
        ({"restart": 1}, {"restart": 1}, "heard of"),
        ({"restart": 0, "array_index": "3"}, {"restart": 1, "array_index": "4"}, "heard of"),
        ({"restart": 0, "job": "8"}, {"restart": 1}, "heard of"),
        ({"restart": 0, "job": ""}, {"restart": 1, "job": ""}, "heard of"),
    ],
    ids=["requeued", "older restart", "same", "another of the array", "another job", "no job"],
)
def test_only_the_same_job_with_a_higher_restart_count_takes_over_at_once(tmp_path, there, me, why):
    leave_note(tmp_path, elsewhere(**{"job": "7", **there}))
    mine = replace(this_process(), **{"job": "7", **me})
    if not why:
        assert_taken_over(tmp_path, mine)
        return
    with pytest.raises(FolderOwnedError, match=f"process 4711 on node17.*{why}"):
        FolderOwner.claim(tmp_path, me=mine)


def test_another_host_is_taken_over_from_when_it_has_been_silent_for_long(tmp_path):
    leave_note(tmp_path, elsewhere(), age_s=59)
    with pytest.raises(FolderOwnedError, match=r"heard of 59 s ago; after 60 s it counts as gone"):
        FolderOwner.claim(tmp_path)
    leave_note(tmp_path, elsewhere(), age_s=61)
    assert_taken_over(tmp_path)


def test_a_running_owner_gives_signs_of_life(tmp_path):
    owner = FolderOwner.claim(tmp_path, heartbeat_s=0.05)
    os.utime(tmp_path / NAME, (0, 0))
    deadline = time.monotonic() + 20
    while (tmp_path / NAME).stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / NAME).stat().st_mtime > time.time() - 30
    owner.release()


def test_who_was_taken_over_from_learns_it_before_it_writes_and_disturbs_nobody(tmp_path):
    first = FolderOwner.claim(tmp_path, me=replace(this_process(), job="7"), heartbeat_s=0.02)
    second = FolderOwner.claim(tmp_path, me=replace(this_process(), job="7", restart=1))
    before = contents(tmp_path)
    with pytest.raises(FolderOwnedError, match=r"was taken over by process .* job 7, restart 1"):
        check_owner(tmp_path, first.owner.token)
    time.sleep(0.2)  # ten heartbeats of the first
    first.release()
    assert contents(tmp_path) == before
    check_owner(tmp_path, second.owner.token)
    second.release()


def test_a_folder_whose_note_was_removed_is_not_written_to(tmp_path):
    owner = FolderOwner.claim(tmp_path)
    (tmp_path / NAME).unlink()
    with pytest.raises(FolderOwnedError, match=r"owner.json is gone"):
        check_owner(tmp_path, owner.owner.token)
    owner.release()


def test_a_folder_that_cannot_be_written_is_refused_by_its_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"run\.dir=.*file/run cannot be written \(Not a directory"
    ):
        FolderOwner.claim(tmp_path / "file" / "run")


def _claim_at(folder: str, start: float, results) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        FolderOwner.claim(Path(folder))
        results.put("owner")
        time.sleep(3)
    except FolderOwnedError:
        results.put("refused")


def test_of_newcomers_at_one_moment_one_becomes_the_owner(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.time() + 0.5
    processes = [
        context.Process(target=_claim_at, args=(str(tmp_path), start, results)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    told = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert told == ["owner", *["refused"] * 5]


def test_a_claimant_that_was_killed_in_the_middle_blocks_nobody_for_long(tmp_path):
    """What it has left counts for ten seconds: until then the folder is being claimed."""
    left = tmp_path / f".{NAME}.claim"
    left.touch()
    started = time.monotonic()
    with pytest.raises(FolderOwnedError, match=r"claiming it this very moment .*try again in 10 s"):
        FolderOwner.claim(tmp_path)
    assert time.monotonic() - started < 1.0
    os.utime(left, (0, 0))
    assert_taken_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_ends_does_not_let_go_for_its_parent(tmp_path):
    """As a verifier's worker, which inherits all that its parent holds."""
    owner = FolderOwner.claim(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=owner.release)
    child.start()
    child.join(30)
    owner.check()
    assert child.exitcode == 0 and read_owner(tmp_path) == owner.owner
    owner.release()


def test_a_note_that_cannot_be_read_for_a_moment_ends_no_run(tmp_path):
    """A network file system fails now and then: the owner asks again."""
    owner = FolderOwner.claim(tmp_path)
    note = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text("")
    threading.Timer(0.5, (tmp_path / NAME).write_text, [note]).start()
    assert read_owner(tmp_path) is None
    owner.check()
    assert read_owner(tmp_path) == owner.owner
    owner.release()


def test_who_writes_now_is_told_to_those_who_ask(tmp_path):
    assert living_owner(tmp_path / NAME) is None
    owner = FolderOwner.claim(tmp_path)
    assert living_owner(tmp_path / NAME) == owner.owner
    owner.release()
    leave_note(tmp_path, elsewhere(), age_s=61)
    assert living_owner(tmp_path / NAME) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"host": "node17"}'])
def test_a_note_that_was_damaged_is_somebodys_until_it_has_been_silent_for_long(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(FolderOwnedError, match=rf"{NAME} is damaged, .* heard of \d s ago"):
        FolderOwner.claim(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content
    long_ago = time.time() - 1000
    os.utime(tmp_path / NAME, (long_ago, long_ago))
    FolderOwner.claim(tmp_path).release()


def test_one_byte_of_a_note_changed_is_seen(tmp_path):
    write_note(tmp_path / NAME, this_process())
    note = (tmp_path / NAME).read_text()
    for old, new in (('"restart": 0', '"restart": 1'), ('"pid": ', '"pid": 1')):
        (tmp_path / NAME).write_text(note.replace(old, new))
        assert read_owner(tmp_path) is None
    (tmp_path / NAME).write_text(note)
    assert read_owner(tmp_path) is not None


def test_a_run_owns_its_folder_before_what_is_slow_to_import(tmp_path):
    """The claim stands in `train.run`; what is imported before it takes a fraction of a second."""
    program = "import sys; import megatron_ar3po.train; "
    program += (
        "print([m for m in ('torch', 'megatron', 'sglang', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, timeout=120, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]

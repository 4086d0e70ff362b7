"""The power goes at each write of a few deposits, and the disk keeps what it likes of all that was not synced.

Left out: a disk that lies about its syncs. No program can mend that.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.power_loss import Disk, Event, RecordingVfs, disks_after_power_loss, sqlite_library
from fakes.reuse_cases import (
    assert_same_response,
    contents,
    deposit,
    make_prompt,
    make_response,
    open_store,
)

from megatron_ar3po.reuse.database import ReuseStoreError

OPTIONS = {"max_responses_per_prompt": 2}
STEPS = range(2, 4)


def responses_of(step: int) -> list:
    return [make_response(make_prompt(n), step, num_tokens=250) for n in range(step % 2, 6)]


def record(folder: Path, *pragmas: str) -> tuple[Disk, list[Event]]:
    """Two deposits with evictions and loans on a shard that holds one already."""
    with open_store(folder, **OPTIONS) as store:
        deposit(store, responses_of(1), 1)
        name = store.path.name
    start = {name: (folder / name).read_bytes()}
    library = sqlite_library()
    if library is None:
        pytest.skip("Python's SQLite is not a shared library here")
    with RecordingVfs(library) as vfs, open_store(folder, **OPTIONS) as store:
        for pragma in pragmas:
            store._connection.execute(pragma)
        for step in STEPS:
            deposit(store, responses_of(step), step)
            store.borrow(make_prompt(0).prompt_id, step=step)
            assert store.cursor == {"step": step}
            vfs.acknowledge(step)
    return start, vfs.events


def losses(folder: Path, start: Disk, events: list[Event]) -> Iterator[str]:
    """What went wrong over all outcomes of a power loss at each point; nothing when every promise held."""
    seen = set()
    for point in range(len(events) + 1):
        acknowledged = max((e.offset for e in events[:point] if e.kind == "ack"), default=1)
        for disk in disks_after_power_loss(start, events[:point]):
            digest = hashlib.sha256(repr((acknowledged, sorted(disk.items()))).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                if problem := wrong_with(folder / str(len(seen)), disk, acknowledged):
                    yield f"after event {point}: {problem}"
    assert len(seen) > 20


def wrong_with(folder: Path, disk: Disk, acknowledged: int) -> str | None:
    folder.mkdir(parents=True)
    for name, content in disk.items():
        (folder / name).write_bytes(content)
    try:
        with open_store(folder, **OPTIONS) as store:
            if store._connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "the file is damaged"
            held = contents(store.path)
            for step in range(1, acknowledged + 2):
                expected = (
                    {r.response.response_id for r in responses_of(step)} if step <= 3 else set()
                )
                there = expected & held.keys()
                if step <= acknowledged and there != expected:
                    return f"acknowledged step {step} lost {sorted(expected - there)}"
                if there and there != expected:
                    return f"step {step} is there in part"
            for number in range(6):
                scored = store.borrow(make_prompt(number).prompt_id, step=9)
                if scored is not None:
                    given = make_response(make_prompt(number), scored.response.step, num_tokens=250)
                    assert_same_response(scored, given)
    except (ReuseStoreError, sqlite3.DatabaseError) as error:
        return str(error)
    return None


def test_a_power_loss_at_any_write_loses_nothing_acknowledged_and_leaves_nothing_half_done(
    tmp_path: Path,
) -> None:
    start, events = record(tmp_path / "run")
    assert sum(event.kind == "sync" for event in events) >= 3 * len(STEPS)
    assert list(losses(tmp_path, start, events)) == []


@pytest.mark.parametrize(
    "pragma",
    ["PRAGMA synchronous = OFF", "PRAGMA journal_mode = DELETE"],
    ids=["no sync", "delete"],
)
def test_the_power_loss_test_sees_settings_that_lose_acknowledged_deposits(
    tmp_path: Path, pragma: str
) -> None:
    """Without syncs, and with a journal whose deletion is not synced (SQLite's default)."""
    start, events = record(tmp_path / "run", pragma)
    assert any(
        any(word in problem for word in ("lost", "damaged", "malformed"))
        for problem in losses(tmp_path, start, events)
    )

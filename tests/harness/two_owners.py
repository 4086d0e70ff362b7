"""Processes that want one folder: how long a refusal takes, what it says, and who wins where two come at one moment."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ar3po.folder_owner import (
    NAME,
    FolderOwnedError,
    FolderOwner,
    this_process,
    write_note,
)

FILES = {
    "resolved_config.yaml": "run: {}\n",
    "metrics.jsonl": '{"step": 0}\n{"step": 1}\n',
    "ledger/dp00.jsonl": '{"kind": "intent", "step": 1}\n',
    "checkpoints/latest": "step_00001",
    "reuse/dp00_of_01.sqlite": "answers",
}
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Try:
    """What became of one claim."""

    seconds: float
    refusal: str  # "": it is the owner


def make_run(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Byte for byte; the owner's note too, whose time of change alone goes on."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leave_a_dead_owner(folder: Path) -> None:
    """Its process is gone, and it was heard of two minutes ago."""
    folder.mkdir(parents=True)
    me = this_process()
    write_note(folder / NAME, replace(me, started=me.started - 1000, token="dead"))
    long_ago = time.time() - 120
    os.utime(folder / NAME, (long_ago, long_ago))


def claim_at_once(folders: Sequence[Path], hosts: Sequence[str]) -> list[Try]:
    """A process for each of `folders` (one folder, perhaps seen through several mounts) claims it, all at one moment;
    they end when all have been told. `hosts`: where each says that it runs; "" is here."""
    results = [_FORK.Queue() for _ in folders]
    begun, ended = _FORK.Barrier(len(folders)), _FORK.Barrier(len(folders))
    processes = [
        _FORK.Process(target=_claim, args=(*each, begun, ended), daemon=True)
        for each in zip(folders, hosts, results, strict=True)
    ]
    for process in processes:
        process.start()
    tries = [result.get(timeout=200) for result in results]
    for process in processes:
        process.join(60)
    return tries


def _claim(folder: Path, host: str, result: Any, begun: Any, ended: Any) -> None:
    me = this_process()
    if host:
        me = replace(me, host=host, namespace="pid:[1]")
    begun.wait(60)
    started = time.monotonic()
    owner, refusal = None, ""
    try:
        owner = FolderOwner.claim(folder, me=me)
    except FolderOwnedError as error:
        refusal = str(error)
    except BaseException as error:  # whatever it was is the answer that the test reads
        refusal = f"failed: {error!r}"
    seconds = time.monotonic() - started
    ended.wait(120)  # an owner that lets go makes room for the next
    result.put(Try(seconds, refusal))
    if owner is not None:
        owner.release()


def check_refusals(
    first: Path, second: Path, *, num_tries: int, host: str = "", limit_s: float = 1.0
) -> str:
    """A run owns `first`; `second` is the same folder as the other process sees it, on `host`. Returns the figures.
    `limit_s`: of the longest refusal."""
    make_run(first)
    owner = FolderOwner.claim(first, me=replace(this_process(), job="77"))
    tries: list[Try] = []
    try:
        before = contents(first)
        for _ in range(num_tries):
            (told,) = claim_at_once([second], [host])
            me = owner.owner
            assert f"process {me.pid} on {me.host}, job 77, since" in told.refusal, told
            assert contents(first) == before
            tries.append(told)
        owner.check()
    finally:
        owner.release()
    return f"{num_tries} refusals: {_figures(tries, limit_s)}"


def check_newcomers(
    folders: Sequence[Path], hosts: Sequence[str], *, num_tries: int, limit_s: float = 1.0
) -> str:
    """Each time in a folder of its own under `folders`; every other time a dead owner has left its note there."""
    refused: list[Try] = []
    for number in range(num_tries):
        if number % 2:
            leave_a_dead_owner(folders[0] / f"try_{number}")
        tries = claim_at_once([folder / f"try_{number}" for folder in folders], hosts)
        assert [told.refusal for told in tries].count("") == 1, tries
        assert not any(told.refusal.startswith("failed") for told in tries), tries
        refused += [told for told in tries if told.refusal]
    return f"{num_tries} times two newcomers, one owner each; the other is told: {_figures(refused, limit_s)}"


def _figures(refused: Sequence[Try], limit_s: float) -> str:
    ordered = sorted(told.seconds for told in refused)
    assert ordered[len(ordered) // 2] < 1.0, ordered
    slowest = max(refused, key=lambda told: told.seconds)
    assert slowest.seconds < limit_s, f"{slowest.refusal}, told after {slowest.seconds:.2f} s"
    return f"median {1000 * ordered[len(ordered) // 2]:.1f} ms, longest {1000 * ordered[-1]:.1f} ms"

"""Cases that need several ranks: every case of one world size in one program, started by torchrun.

    torchrun --nproc-per-node W tests/parallel/PROGRAM.py RESULTS.jsonl [NAME ...]

Rank 0 writes one line per case: {"case", "ok", "detail", "seconds"}. The tests start the programs (conftest.py) and
report the cases one by one; they import them for the names, so everything heavy is imported inside.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Case = Callable[[], None]


class Cases:
    def __init__(self, *parts: Cases) -> None:
        """With `parts`: the cases of all of them."""
        self.of_world: dict[int, dict[str, Case]] = {1: {}, 2: {}, 3: {}, 4: {}}
        # Every combination, for make chaos; make test runs a covering selection.
        self.exhaustive: set[str] = set()
        for part in parts:
            for world_size, cases in part.of_world.items():
                assert not self.of_world[world_size].keys() & cases.keys()
                self.of_world[world_size] |= cases
            self.exhaustive |= part.exhaustive

    def add(
        self,
        *world_sizes: int,
        exhaustive: bool = False,
        pairwise: bool = False,
        **variants: Sequence[Any],
    ) -> Callable[[Callable[..., None]], Any]:
        """Registers a function under its name; with `cut=[...]` and the like once per value. `pairwise`: not every
        combination, but every two values of two variants meet in one of them."""
        rows = list(_combinations(variants))
        if pairwise:
            rows = _select_covering(rows)

        def register(function: Callable[..., None]) -> Callable[..., None]:
            for world_size in world_sizes:
                for chosen in rows:
                    label = "-".join(map(str, chosen.values()))
                    name = function.__name__ + (f"[{label}]" if label else "")
                    self.of_world[world_size][name] = lambda f=function, c=chosen: f(**c)
                    if exhaustive:
                        self.exhaustive.add(name)
            return function

        return register

    def run(self, results: Path, chosen: Sequence[str]) -> None:
        """The program of one rank: the chosen cases, or all but the exhaustive ones."""
        import torch
        import torch.distributed as dist

        from megatron_ar3po.distributed.collectives import start_process_group
        from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

        torch.set_num_threads(1)
        ensure_torchvision_schemas()
        rank, world_size = start_process_group(60.0)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CASES_DIR"] = folder
            for name, run in self.of_world[world_size].items():
                if name not in chosen if chosen else name in self.exhaustive:
                    continue
                started = time.perf_counter()
                failure = ""
                try:
                    run()
                except Exception:  # one failed case must not hide the others
                    failure = f"rank {rank}: {traceback.format_exc()}"
                    print(f"{name}: {failure}", file=sys.stderr, flush=True)
                failures: list[Any] = [None] * world_size
                dist.all_gather_object(failures, failure)
                if rank == 0:
                    line = {
                        "case": name,
                        "ok": not any(failures),
                        "detail": "\n".join(f for f in failures if f),
                        "seconds": round(time.perf_counter() - started, 2),
                    }
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
            dist.barrier()
        dist.destroy_process_group()


def _combinations(variants: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*variants.values()):
        yield dict(zip(variants, values, strict=True))


def _select_covering(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of `rows` in which every pair of values that occurs in them occurs; the richest row first."""

    def pairs(row: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(sorted((n, str(v)) for n, v in row.items()), 2))

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


@contextmanager
def raises(kind: type[Exception], *words: str) -> Iterator[None]:
    """pytest.raises for a case: what it throws when nothing is raised is no Exception and would end the program."""
    try:
        yield
    except kind as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in: {error}"
    else:
        raise AssertionError(f"no {kind.__name__} was raised")

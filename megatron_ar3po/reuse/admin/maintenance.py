"""Changing a store while no run writes to it: clear up, regrade, reshard (importing.py: import). Every shard is locked
meanwhile."""

from __future__ import annotations

import heapq
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from megatron_ar3po.distributed.layout import owner_dp_rank
from megatron_ar3po.reuse.admin.inspection import (
    Problem,
    StoredResponse,
    find_shards,
    open_shard,
    read_rows,
)
from megatron_ar3po.reuse.codec import encode_prompt, encode_responses
from megatron_ar3po.reuse.database import (
    ReuseStoreError,
    ShardState,
    explain_errors,
    open_for_writing,
    read_state,
    recount,
    transaction,
    write_state,
)
from megatron_ar3po.reuse.owner import owned_by_a_command
from megatron_ar3po.reuse.resharding import ShardBuilder, StoredRow, open_sources, reshard_one
from megatron_ar3po.reuse.shards import (
    ShardSet,
    current_set,
    prompt_key,
    remove_other_sets,
)
from megatron_ar3po.types import Prompt, Response, ScoredResponse, Verdict


class Grader(Protocol):
    """Says what today's data and verifier make of an answer. The command line brings it along."""

    def current_prompt(self, prompt: Prompt) -> Prompt | None:
        """The same prompt with the prompt id of today's data, or None where today's data does not hold it."""
        ...

    def verify(self, prompt: Prompt, response: Response) -> Verdict: ...

    @property
    def verdicts(self) -> Mapping[str, str]:
        """The settings that it grades with, by dotted name."""
        ...


def collect_garbage(
    path: Path, *, damaged: bool = False, max_age_steps: int = 0, max_bytes: int = 0
) -> dict[str, int]:
    """Gives space back: prompts without responses and, where asked for, damaged rows, responses older than
    `max_age_steps`, and the oldest ones beyond `max_bytes` per shard. They are gone for every rollback, too."""
    counts: Counter[str] = Counter()
    for shard in find_shards(path):
        bad = [row.row for row in read_rows(shard) if isinstance(row, Problem)] if damaged else []
        size = shard.stat().st_size
        with _lock(shard) as connection:
            with explain_errors(shard):
                connection.execute("CREATE TEMP TABLE doomed (id INTEGER PRIMARY KEY)")
            with transaction(connection, shard):
                execute = connection.execute
                connection.executemany("INSERT INTO doomed VALUES (?)", [(row,) for row in bad])
                if damaged:
                    execute(
                        "INSERT OR IGNORE INTO doomed SELECT id FROM responses "
                        "WHERE id NOT IN (SELECT id FROM payloads)"
                    )
                if max_age_steps:
                    oldest = read_state(connection, shard).clock - max_age_steps
                    execute(
                        "INSERT OR IGNORE INTO doomed SELECT id FROM arrivals WHERE step < ?",
                        (oldest,),
                    )
                if max_bytes:
                    execute(
                        "INSERT OR IGNORE INTO doomed SELECT id FROM (SELECT id, SUM(num_bytes) "
                        "OVER (ORDER BY id DESC) AS bytes FROM responses) WHERE bytes > ?",
                        (max_bytes,),
                    )
                counts["responses"] += _delete_doomed(connection, shard)
                counts["prompts"] += execute(
                    "DELETE FROM prompts WHERE id NOT IN (SELECT prompt FROM responses)"
                ).rowcount
            with explain_errors(shard):
                connection.execute("VACUUM")
        counts["bytes"] += size - shard.stat().st_size
    return dict(counts)


def reshard(path: Path, dp_size: int) -> ShardSet:
    """The store cut anew for another DP size. Returns the set that is current now."""
    folder, old, _ = require_whole_store(path)
    if old.dp_size == dp_size:
        return old
    new = ShardSet(old.version + 1, dp_size)
    with owned_by_a_command(old.paths(folder)):
        remove_other_sets(folder, old)
        for rank in range(dp_size):
            reshard_one(folder, old, new, dp_rank=rank, fingerprint=None)
        remove_other_sets(folder, new)
    return new


def regrade(path: Path, grader: Grader) -> dict[str, int]:
    """Every stored response before today's verifier: correct ones move to today's prompt ids with their new verdict,
    the others are dropped. The new shards, which note today's settings, take the place of the old ones when all are
    whole."""
    folder, old, _ = require_whole_store(path)
    new = ShardSet(old.version + 1, old.dp_size)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(owned_by_a_command(old.paths(folder)))
        remove_other_sets(folder, old)
        sources = open_sources(stack, old.paths(folder))
        states = [
            read_state(source, name)
            for source, name in zip(sources, old.paths(folder), strict=True)
        ]
        builders = [
            stack.enter_context(
                ShardBuilder(
                    new.path(folder, rank),
                    fingerprint=replace(states[0].fingerprint, verdicts=dict(grader.verdicts)),
                    dp_rank=rank,
                    dp_size=new.dp_size,
                    hash_seed=states[0].hash_seed,
                )
            )
            for rank in range(new.dp_size)
        ]
        for source in sources:
            for builder in builders:
                builder.add_sessions(source.execute("SELECT id, opened, sampler FROM sessions"))
        rows = [read_rows(shard) for shard in old.paths(folder)]
        for row in heapq.merge(
            *rows, key=lambda r: -1 if isinstance(r, Problem) else r.deposit_step
        ):
            counts[_regrade_row(row, grader, builders)] += 1
        for builder in builders:
            builder.seal(
                clock=max(s.clock for s in states), committed=max(s.committed for s in states)
            )
        for source in sources:
            source.close()
        remove_other_sets(folder, new)
    return dict(counts)


def _regrade_row(
    row: StoredResponse | Problem, grader: Grader, builders: list[ShardBuilder]
) -> str:
    """Returns what became of it."""
    if isinstance(row, Problem):
        return "damaged"
    prompt = grader.current_prompt(row.prompt)
    if prompt is None:
        return "unknown_prompt"
    response = replace(row.scored.response, prompt_id=prompt.prompt_id)
    scored = ScoredResponse(response=response, verdict=grader.verify(prompt, response))
    if not scored.is_graded:
        raise ReuseStoreError(
            f"the verifier failed for stored response {response.response_id} ({scored.verdict.reason}), so it is not "
            "known whether it stays; nothing was changed. Mend the verifier and regrade again."
        )
    if not scored.is_correct:
        return "not_correct"
    prompt_row = encode_prompt(prompt)
    (payload,) = encode_responses([scored], session=row.session, deposit_step=row.deposit_step)
    builders[owner_dp_rank(prompt.prompt_id, len(builders))].add(
        StoredRow(
            prompt=(
                prompt_key(prompt.prompt_id),
                prompt.prompt_id,
                prompt_row.details,
                prompt_row.data,
                prompt_row.crc,
            ),
            response_id=response.response_id,
            step=row.deposit_step,
            num_tokens=response.num_tokens,
            hash_rank=row.hash_rank,
            evicted_step=row.evicted_step,
            payload=payload,
            loans=row.loans,
        )
    )
    return "kept"


def require_whole_store(path: Path) -> tuple[Path, ShardSet, ShardState]:
    """(reuse folder, its current set, the state of the newest shard) of a store that is there as a whole."""
    shards = find_shards(path)
    folder = shards[0].parent
    shard_set = current_set(folder)
    if path.is_file() or shard_set is None:
        raise ReuseStoreError(
            f"{path} is not a whole reuse store; name the run's folder or its reuse folder."
        )
    states = []
    for shard in shards:
        with closing(open_shard(shard)) as connection:
            states.append(read_state(connection, shard))
    return folder, shard_set, max(states, key=lambda state: state.clock)


@contextmanager
def _lock(shard: Path) -> Iterator[sqlite3.Connection]:
    with owned_by_a_command([shard]), closing(open_for_writing(shard)) as connection:
        yield connection


def _delete_doomed(connection: sqlite3.Connection, shard: Path) -> int:
    """The responses in temporary table `doomed`, everywhere. Returns how many there were."""
    doomed = "(SELECT id FROM doomed)"
    connection.execute(f"DELETE FROM payloads WHERE id IN {doomed}")
    connection.execute(f"DELETE FROM loans WHERE response IN {doomed}")
    connection.execute(f"DELETE FROM arrivals WHERE id IN {doomed}")
    num_deleted = connection.execute(f"DELETE FROM responses WHERE id IN {doomed}").rowcount
    write_state(connection, recount(connection, read_state(connection, shard)))
    return num_deleted

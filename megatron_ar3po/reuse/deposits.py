"""A step's fresh answers become rows, and others make room for them: inside one transaction of the store.

**Who stays** when a prompt has more than `reuse.max_responses_per_prompt` is decided by its hash rank, a hash of
(run seed, response id): `reservoir` keeps the smallest ranks, which is a uniform sample of all that was ever
deposited for the prompt; `newest` keeps the newest steps and lets the rank break ties. There is no random state to
save, and depositing twice changes nothing. After that the oldest of the shard leave by `reuse.max_age_steps` and
`reuse.max_shard_bytes`.

Nothing is deleted here: who leaves is marked with the step, so that a rollback can bring it back.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.distributed.layout import owner_dp_rank
from megatron_ar3po.reuse.choice import hash_rank_of, ranks_beyond_cap
from megatron_ar3po.reuse.codec import encode_prompt, encode_responses
from megatron_ar3po.reuse.database import ReuseStoreError, ShardState
from megatron_ar3po.reuse.shards import prompt_key
from megatron_ar3po.types import Prompt, ScoredResponse

_MAX_PARAMETERS = 500  # of one statement
_SCAN_ROWS = 500


class _Known(NamedTuple):
    """A row of table `responses` that is there already. (Thousands of them are made in every deposit: tuples.)"""

    prompt: int
    id: int
    step: int
    hash_rank: int
    num_bytes: int
    is_alive: bool


class _Arrival(NamedTuple):
    """A response that enters, with the number of its prompt."""

    prompt: int
    hash_rank: int
    scored: ScoredResponse


def refuse_unworthy(
    by_prompt: Mapping[str, Sequence[ScoredResponse]],
    prompts: Mapping[str, Prompt],
    state: ShardState,
    *,
    step: int,
) -> None:
    """Before anything is written: only fresh correct answers to this shard's prompts, of `step` or earlier."""
    for prompt_id, group in by_prompt.items():
        if prompt_id not in prompts:
            raise ValueError(
                f"response {group[0].response.response_id} came without its prompt {prompt_id}."
            )
        owner = owner_dp_rank(prompt_id, state.dp_size)
        if owner != state.dp_rank:
            raise ValueError(
                f"prompt {prompt_id} belongs to data-parallel rank {owner}, not {state.dp_rank}; each leader "
                "deposits the prompts it owns."
            )
        for scored in group:
            _refuse_unworthy_response(scored, step)


def _refuse_unworthy_response(scored: ScoredResponse, step: int) -> None:
    response = scored.response
    if scored.origin != "fresh" or not scored.is_correct:
        raise ValueError(
            f"response {response.response_id} is {scored.origin} and {scored.verdict.status}; only fresh correct "
            "responses are deposited (algorithm.response_reuse.responses_worth_keeping picks them)."
        )
    if response.step > step:
        raise ValueError(
            f"response {response.response_id} is of step {response.step}, after this deposit's {step}."
        )


def insert_step(
    connection: sqlite3.Connection,
    state: ShardState,
    by_prompt: Mapping[str, Sequence[ScoredResponse]],
    prompts: Mapping[str, Prompt],
    *,
    config: ReuseConfig,
    run_seed: int,
    session: Callable[[], int],
) -> tuple[ShardState, int, Counter[str]]:
    """(the shard afterwards, how many entered, what was evicted and why). `session`: the number of this opening,
    asked for once something enters."""
    numbers = _prompt_numbers(connection, by_prompt)
    known = _known_rows(connection, numbers.values())
    arrivals: list[_Arrival] = []
    leaving: list[_Known] = []
    new_prompts: list[tuple[int, Prompt]] = []
    next_number = _next_prompt_number(connection)
    for prompt_id, group in by_prompt.items():
        number = numbers.get(prompt_id, next_number)
        entering, driven_out = _split_by_cap(
            group, known[number], step=state.clock, config=config, run_seed=run_seed
        )
        arrivals += (_Arrival(number, hash_rank, scored) for hash_rank, scored in entering)
        leaving += driven_out
        if entering and prompt_id not in numbers:
            new_prompts.append((number, prompts[prompt_id]))
            next_number += 1
    _evict(connection, [(state.clock, row.prompt, row.id) for row in leaving])
    _insert_prompts(connection, new_prompts)
    num_bytes = _insert_responses(connection, state, arrivals, session) if arrivals else 0
    state = replace(
        state,
        next_id=state.next_id + len(arrivals),
        num_responses=state.num_responses + len(arrivals) - len(leaving),
        num_bytes=state.num_bytes + num_bytes - sum(row.num_bytes for row in leaving),
    )
    return state, len(arrivals), Counter(evicted_by_cap=len(leaving))


def evict_oldest(
    connection: sqlite3.Connection, state: ShardState, config: ReuseConfig
) -> tuple[ShardState, Counter[str]]:
    """What is too old, then what is too much, from the oldest on. (the shard afterwards, what was evicted and why)"""
    counts: Counter[str] = Counter()
    oldest_step = state.clock - config.max_age_steps if config.max_age_steps else -1
    while state.oldest_id < state.next_id:
        page = connection.execute(
            "SELECT a.id, a.prompt, a.step, r.num_bytes FROM arrivals a LEFT JOIN responses r "
            "ON r.prompt = a.prompt AND r.id = a.id AND r.evicted_step IS NULL "
            "WHERE a.id >= ? ORDER BY a.id LIMIT ?",
            (state.oldest_id, _SCAN_ROWS),
        ).fetchall()
        gone: list[tuple[int, int, int]] = []
        for id_, prompt, step, num_bytes in page:
            is_old = step < oldest_step
            if not is_old and not 0 < config.max_shard_bytes < state.num_bytes:
                break
            state = replace(state, oldest_id=id_ + 1)
            if num_bytes is not None:
                gone.append((state.clock, prompt, id_))
                counts["evicted_by_age" if is_old else "evicted_by_bytes"] += 1
                state = replace(
                    state,
                    num_responses=state.num_responses - 1,
                    num_bytes=state.num_bytes - num_bytes,
                )
        _evict(connection, gone)
        if not page or page[-1][0] >= state.oldest_id:
            break
    return state, counts


def _prompt_numbers(
    connection: sqlite3.Connection, prompt_ids: Mapping[str, object]
) -> dict[str, int]:
    """prompts.id of those that are there."""
    keys = {prompt_key(prompt_id): prompt_id for prompt_id in prompt_ids}
    if len(keys) < len(prompt_ids):
        first, second = _find_equal_keys(list(prompt_ids))
        raise _same_key_error(first, second)
    numbers: dict[str, int] = {}
    for part in _parts(list(keys)):
        found = connection.execute(
            f"SELECT key, id, prompt_id FROM prompts WHERE key IN ({_placeholders(part)})", part
        )
        for key, number, stored in found:
            if stored != keys[key]:
                raise _same_key_error(stored, keys[key])
            numbers[stored] = number
    return numbers


def _find_equal_keys(prompt_ids: list[str]) -> tuple[str, str]:
    seen: dict[int, str] = {}
    for prompt_id in prompt_ids:
        other = seen.setdefault(prompt_key(prompt_id), prompt_id)
        if other != prompt_id:
            return other, prompt_id
    raise AssertionError("every prompt has a key of its own")


def _same_key_error(first: str, second: str) -> ReuseStoreError:
    return ReuseStoreError(
        f"prompts {first} and {second} share their first 16 hex digits; ids must differ there."
    )


def _known_rows(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, list[_Known]]:
    """By prompt number; evicted ones that may come back included."""
    known: dict[int, list[_Known]] = defaultdict(list)
    for part in _parts(sorted(numbers)):
        found = connection.execute(
            "SELECT prompt, id, step, lottery, num_bytes, evicted_step IS NULL FROM responses "
            f"WHERE prompt IN ({_placeholders(part)})",
            part,
        )
        for row in map(_Known._make, found):
            known[row.prompt].append(row)
    return known


def _split_by_cap(
    group: Sequence[ScoredResponse],
    known: Sequence[_Known],
    *,
    step: int,
    config: ReuseConfig,
    run_seed: int,
) -> tuple[list[tuple[int, ScoredResponse]], list[_Known]]:
    """(what of `group` enters, with its hash rank; what of the known rows it drives out)"""
    there = {row.hash_rank for row in known}
    arriving: dict[int, ScoredResponse] = {}
    for scored in group:
        hash_rank = hash_rank_of(run_seed, scored.response.response_id)
        if hash_rank not in there:
            arriving.setdefault(hash_rank, scored)
    alive = [row for row in known if row.is_alive]
    if len(alive) + len(arriving) <= config.max_responses_per_prompt:
        return list(arriving.items()), []
    stored = [(row.step, row.hash_rank) for row in alive]
    stored += ((step, hash_rank) for hash_rank in arriving)
    leaving = ranks_beyond_cap(stored, cap=config.max_responses_per_prompt, keep=config.keep)
    entering = [pair for pair in arriving.items() if pair[0] not in leaving]
    return entering, [row for row in alive if row.hash_rank in leaving]


def _evict(connection: sqlite3.Connection, rows: list[tuple[int, int, int]]) -> None:
    """`rows`: (step, prompt, id)"""
    connection.executemany(
        "UPDATE responses SET evicted_step = ? WHERE prompt = ? AND id = ?", rows
    )


def _next_prompt_number(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT MAX(id) FROM prompts").fetchone()
    return (last or 0) + 1


def _insert_prompts(connection: sqlite3.Connection, prompts: Sequence[tuple[int, Prompt]]) -> None:
    rows = ((number, prompt, encode_prompt(prompt)) for number, prompt in prompts)
    connection.executemany(
        "INSERT INTO prompts VALUES (?, ?, ?, CAST(? AS TEXT), ?, ?)",
        (
            (n, prompt_key(p.prompt_id), p.prompt_id, row.details, row.data, row.crc)
            for n, p, row in rows
        ),
    )


def _insert_responses(
    connection: sqlite3.Connection,
    state: ShardState,
    arrivals: list[_Arrival],
    session: Callable[[], int],
) -> int:
    """In the order of their prompts, whose rows share pages. Returns the bytes of their payloads."""
    arrivals.sort(key=lambda arrival: arrival.prompt)
    numbered = list(enumerate(arrivals, start=state.next_id))
    sizes: list[int] = []

    def payloads() -> Iterator[tuple[int, bytes, bytes, int]]:
        rows = encode_responses(
            [a.scored for a in arrivals], session=session(), deposit_step=state.clock
        )
        for id_, row in enumerate(rows, start=state.next_id):
            sizes.append(row.num_bytes)
            yield id_, row.details, row.data, row.crc

    connection.executemany("INSERT INTO payloads VALUES (?, CAST(? AS TEXT), ?, ?)", payloads())
    connection.executemany(
        "INSERT INTO arrivals VALUES (?, ?, ?, ?)",
        ((id_, a.prompt, state.clock, a.scored.response.response_id) for id_, a in numbered),
    )
    connection.executemany(
        "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (
            (a.prompt, id_, state.clock, a.scored.response.num_tokens, size, a.hash_rank)
            for (id_, a), size in zip(numbered, sizes, strict=True)
        ),
    )
    return sum(sizes)


def _parts(values: list[int]) -> list[list[int]]:
    return [values[i : i + _MAX_PARAMETERS] for i in range(0, len(values), _MAX_PARAMETERS)]


def _placeholders(values: list[int]) -> str:
    return ", ".join("?" * len(values))

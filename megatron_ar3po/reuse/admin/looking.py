"""The verbs of `ar3po reuse` that look inside a store: stats, ls, show, verify. Tables for people, JSON for scripts.

Read only, and safe beside a running job.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_ar3po.reuse.admin.inspection import (
    Problem,
    StoredResponse,
    find_response,
    find_shards,
    open_shard,
    shard_stats,
    stored_responses,
    verify_shard,
)
from megatron_ar3po.reuse.database import ReuseStoreError, read_state

Decode = Callable[[Sequence[int]], str]


def stats(arguments: argparse.Namespace) -> int:
    shards = [shard_stats(shard) for shard in find_shards(arguments.path)]
    totals = {
        name: sum(shard[name] for shard in shards)
        for name in (
            "responses",
            "prompts",
            "tokens",
            "evicted_kept",
            "loans",
            "bytes",
            "raw_bytes",
        )
    }
    if arguments.json:
        print(json.dumps({**totals, "shards": shards}))
        return 0
    table = Table(
        title=f"run {shards[0]['run']}, step {max(shard['clock_step'] for shard in shards)}"
    )
    table.add_column("shard", no_wrap=True)
    for name in ("responses", "prompts", "tokens", "steps", "evicted", "loans", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for shard in shards:
        is_empty = shard["oldest_step"] is None
        table.add_row(
            shard["shard"].removesuffix(".sqlite"),
            *(f"{shard[name]:,}" for name in ("responses", "prompts", "tokens")),
            "-" if is_empty else f"{shard['oldest_step']}-{shard['newest_step']}",
            *(f"{shard[name]:,}" for name in ("evicted_kept", "loans")),
            _size(shard["bytes"]),
        )
    Console().print(table)
    for shard in shards:
        if shard["writer"]:
            print(f"{shard['shard']} is being written to by {shard['writer']}")
    return 0


def ls(arguments: argparse.Namespace) -> int:
    rows = (
        row
        for shard in find_shards(arguments.path)
        for row in stored_responses(shard, prompt_id=arguments.prompt)
        if row.evicted_step is None
    )
    rows = islice(rows, arguments.limit or None)
    if arguments.json:
        for row in rows:
            print(json.dumps(_without_arrays(row)))
        return 0
    table = Table()
    for name in ("response", "prompt", "step", "version", "stage", "tokens", "borrowed", "last"):
        table.add_column(
            name, justify="left" if name in ("response", "prompt") else "right", no_wrap=True
        )
    for row in rows:
        response = row.scored.response
        table.add_row(
            escape(response.response_id),
            response.prompt_id[:12],
            str(row.deposit_step),
            str(response.policy_version),
            str(response.stage),
            str(response.num_tokens),
            str(len(row.loans)),
            "-" if row.last_borrowed_step is None else str(row.last_borrowed_step),
        )
    Console().print(table)
    return 0


def show(arguments: argparse.Namespace) -> int:
    row = find_response(arguments.path, arguments.response)
    decode = _decoder(row.shard, arguments.tokenizer)
    text = decode(row.scored.response.token_ids.tolist()) if decode else ""
    if arguments.json:
        print(json.dumps({**row.as_json(), "text": text}))
        return 0
    console, response = Console(), row.scored.response
    console.rule(f"prompt {response.prompt_id}")
    console.print(row.prompt.text or f"token ids {list(row.prompt.token_ids)}", markup=False)
    console.print(f"ground truth: {row.prompt.ground_truth}", markup=False)
    console.rule(f"response {escape(response.response_id)}")
    shown = text or f"token ids {response.token_ids.tolist()} (name --tokenizer to read them)"
    console.print(shown, markup=False)
    console.rule("provenance")
    console.print(_provenance_table(row))
    if row.loans:
        console.rule(f"lent {len(row.loans)} times")
        console.print(_loan_table(row))
    return 0


def _provenance_table(row: StoredResponse) -> Table:
    response, verdict = row.scored.response, row.scored.verdict
    facts = Table(show_header=False, box=None)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for name, value in (
        ("sampled", f"step {response.step}, stage {response.stage}, index {response.index}"),
        ("policy version", str(response.policy_version)),
        ("sampler", ", ".join(f"{k} {v}" for k, v in row.sampler.items()) or "not noted"),
        ("server, seed", f"{response.server or '-'}, {response.seed}"),
        ("length", f"{response.num_tokens} tokens, finished by {response.finish_reason}"),
        ("mean log-prob", f"{response.logprobs.mean():.4f}" if response.num_tokens else "-"),
        ("verdict", f"{verdict.status}, reward {verdict.reward:g}; {verdict.reason or '-'}"),
        ("extracted", str(verdict.extracted)),
        ("stored", f"in {row.shard.name} since step {row.deposit_step}" + _eviction_note(row)),
        ("lent", f"{len(row.loans)} times" if row.loans else "never"),
    ):
        facts.add_row(name, escape(value))
    return facts


def _loan_table(row: StoredResponse) -> Table:
    """Where it went and what became of it; '-' where nobody said."""
    table = Table(box=None)
    for name in ("step", "position", "option", "likely then", "drift", "ratio", "clipped"):
        table.add_column(name, justify="left" if name == "option" else "right", no_wrap=True)
    for loan in row.loans:
        parts = (loan.mean_logprob, loan.drift, loan.ratio, loan.clip_frac)
        figures = ("-" if value is None else f"{value:.3f}" for value in parts)
        table.add_row(str(loan.step), str(loan.position), loan.option, *figures)
    return table


def verify(arguments: argparse.Namespace) -> int:
    problems: list[Problem] = []
    num_shards = 0
    for shard in find_shards(arguments.path):
        num_shards += 1
        problems += verify_shard(shard)
    if arguments.json:
        found = [{"shard": p.shard.name, "row": p.row, "what": p.what} for p in problems]
        print(json.dumps({"shards": num_shards, "problems": found}))
    else:
        for problem in problems:
            print(problem)
        print(f"{num_shards} shards, {len(problems)} problems")
    return 1 if problems else 0


def _decoder(shard: Path, tokenizer: Path | None) -> Decode | None:
    """The run's tokenizer, where its folder is still there."""
    connection = open_shard(shard)
    try:
        noted = read_state(connection, shard).fingerprint.tokenizer_path
    finally:
        connection.close()
    folder = tokenizer or (Path(noted) if noted and Path(noted).is_dir() else None)
    if folder is None:
        return None
    if not folder.is_dir():
        raise ReuseStoreError(f"--tokenizer={folder} is not a folder.")
    from transformers import AutoTokenizer  # slow to import

    loaded: Any = AutoTokenizer.from_pretrained(folder)
    return lambda token_ids: str(loaded.decode(list(token_ids)))


def _without_arrays(row: StoredResponse) -> dict[str, Any]:
    fields = row.as_json()
    return {
        **{k: v for k, v in fields.items() if k not in ("token_ids", "logprobs", "prompt")},
        "num_tokens": row.scored.response.num_tokens,
    }


def _eviction_note(row: StoredResponse) -> str:
    return (
        ""
        if row.evicted_step is None
        else f", evicted in step {row.evicted_step} (kept for a rollback)"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"

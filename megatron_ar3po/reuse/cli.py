"""`ar3po reuse VERB PATH`: look inside a store, and take care of it.

Reading verbs (stats, ls, show, verify, export) change nothing and are safe beside a running job. The others need the
store for themselves. `--json` prints one JSON object, or one a line for lists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_ar3po.config.schema import ReuseConfig
from megatron_ar3po.reuse.database import ReuseStoreError, read_state
from megatron_ar3po.reuse.inspection import (
    Problem,
    StoredResponse,
    find_response,
    find_shards,
    open_shard,
    read_rows,
    shard_stats,
    stored_responses,
    verify_shard,
)
from megatron_ar3po.reuse.maintenance import (
    Grader,
    collect_garbage,
    import_lines,
    regrade,
    reshard,
)

Decode = Callable[[Sequence[int]], str]
MakeGrader = Callable[[Path, ExitStack], Grader]
"""Today's data and verifier, by the config file of a run; what must be closed goes on the stack."""

_PARQUET_ROWS = 1000


def add_reuse_parser(subparsers: Any, *, make_grader: MakeGrader) -> None:
    """`make_grader` brings data and verifier in, which this room does not know."""
    parser = subparsers.add_parser("reuse", help="look inside a reuse store and take care of it")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str, command: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about)
        sub.add_argument(
            "path", type=Path, help="a run's folder, its reuse folder, or one shard file"
        )
        sub.add_argument("--json", action="store_true", help="for scripts")
        sub.set_defaults(command=command)
        return sub

    verb("stats", _stats, "how much each shard holds")
    ls = verb("ls", _ls, "list stored responses, oldest first")
    ls.add_argument(
        "--prompt", default="", metavar="ID", help="of this prompt (the beginning will do)"
    )
    ls.add_argument("--limit", type=int, default=50, help="at most so many; 0: all (50)")
    show = verb("show", _show, "prompt, response and provenance of one stored response")
    show.add_argument("response", help="its id, or the beginning of it")
    show.add_argument(
        "--tokenizer", type=Path, help="folder of the tokenizer, where the noted one has moved"
    )
    verb(
        "verify",
        _verify,
        "check every row's checksum and the structure of the files; exit code 1 on damage",
    )
    export = verb("export", _export, "write all stored responses to a file")
    export.add_argument("file", type=Path, help="*.jsonl or *.parquet")
    export.add_argument("--salvage", action="store_true", help="leave damaged rows out and go on")

    gc = verb("gc", _gc, "delete what is no longer needed and give the space back")
    gc.add_argument("--damaged", action="store_true", help="also rows whose checksum is wrong")
    gc.add_argument("--max-age-steps", type=int, default=0, help="also responses older than this")
    gc.add_argument(
        "--max-bytes",
        type=int,
        default=0,
        help="also the oldest responses beyond this size per shard",
    )
    reshard_verb = verb("reshard", _reshard, "cut the store anew for another data-parallel size")
    reshard_verb.add_argument("--dp-size", type=int, required=True, help="number of shards")
    importing = verb(
        "import",
        partial(_import, make_grader=make_grader),
        "deposit correct responses from a JSONL file",
    )
    importing.add_argument("file", type=Path, help="one response a line, as export writes them")
    importing.add_argument(
        "--max-responses-per-prompt", type=int, default=8, help="cap per prompt (8)"
    )
    regrading = verb(
        "regrade",
        partial(_regrade, make_grader=make_grader),
        "verify every stored response again and keep the correct ones",
    )
    for sub in (importing, regrading):
        sub.add_argument(
            "--config",
            type=Path,
            help="data and verifier of this config; default: resolved_config.yaml of the run",
        )


# -- reading ----------------------------------------------------------------------------------------------------------


def _stats(arguments: argparse.Namespace) -> int:
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


def _ls(arguments: argparse.Namespace) -> int:
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


def _show(arguments: argparse.Namespace) -> int:
    row = find_response(arguments.path, arguments.response)
    decode = _decoder(row.shard, arguments.tokenizer)
    text = decode(row.scored.response.token_ids.tolist()) if decode else ""
    if arguments.json:
        print(json.dumps({**row.as_json(), "text": text}))
        return 0
    console, response, verdict = Console(), row.scored.response, row.scored.verdict
    console.rule(f"prompt {response.prompt_id}")
    console.print(row.prompt.text or f"token ids {list(row.prompt.token_ids)}", markup=False)
    console.print(f"ground truth: {row.prompt.ground_truth}", markup=False)
    console.rule(f"response {escape(response.response_id)}")
    shown = text or f"token ids {response.token_ids.tolist()} (name --tokenizer to read them)"
    console.print(shown, markup=False)
    console.rule("provenance")
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
        ("stored", f"in {row.shard.name} since step {row.deposit_step}" + _evicted(row)),
        ("lent", _loans(row)),
    ):
        facts.add_row(name, escape(value))
    console.print(facts)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
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


def _export(arguments: argparse.Namespace) -> int:
    problems: list[Problem] = []
    rows = _rows_to_export(find_shards(arguments.path), problems, salvage=arguments.salvage)
    target: Path = arguments.file
    partial_file = target.with_name(f"{target.name}.partial")
    write = {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(target.suffix)
    if write is None:
        raise ReuseStoreError(f"{target}: an export ends in .jsonl or .parquet.")
    try:
        num_rows = write(partial_file, rows)
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    if arguments.json:
        print(json.dumps({"responses": num_rows, "damaged": len(problems), "file": str(target)}))
    else:
        for problem in problems:
            print(f"left out: {problem}")
        print(
            f"{num_rows} responses in {target}"
            + (f", {len(problems)} left out" if problems else "")
        )
    return 0


def _rows_to_export(
    shards: Sequence[Path], problems: list[Problem], *, salvage: bool
) -> Iterator[dict[str, Any]]:
    """What is alive; with `salvage` damaged rows go to `problems` instead of ending the export."""
    for shard in shards:
        for row in read_rows(shard) if salvage else stored_responses(shard):
            if isinstance(row, Problem):
                problems.append(row)
            elif row.evicted_step is None:
                yield row.as_json()


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for num_rows, row in enumerate(rows, start=1):  # noqa: B007  (counts)
            _print_line(file, row)
    return num_rows


def _print_line(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ReuseStoreError(
            "a Parquet export needs the package pyarrow; `pip install pyarrow`, or export to .jsonl."
        ) from error
    num_rows, writer = 0, None
    try:
        while page := list(islice(rows, _PARQUET_ROWS)):
            flat = [
                {**row, "prompt": json.dumps(row["prompt"]), "sampler": json.dumps(row["sampler"])}
                for row in page
            ]
            table = pa.Table.from_pylist(flat, schema=_parquet_schema(pa))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            num_rows += len(page)
        writer = writer or pq.ParquetWriter(path, _parquet_schema(pa), compression="zstd")
    finally:
        if writer is not None:
            writer.close()
    return num_rows


def _parquet_schema(pa: Any) -> Any:
    verdict = pa.struct(
        [
            ("reward", pa.float64()),
            ("status", pa.string()),
            ("extracted", pa.string()),
            ("reason", pa.string()),
            ("elapsed_s", pa.float64()),
        ]
    )
    strings = ("response_id", "prompt_id", "prompt", "finish_reason", "server", "sampler")
    counts = ("policy_version", "step", "stage", "index", "seed", "num_cached_tokens")
    places = ("deposit_step", "evicted_step", "times_borrowed", "last_borrowed_step")
    return pa.schema(
        [
            *((name, pa.string()) for name in strings),
            ("token_ids", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            *((name, pa.int64()) for name in (*counts, *places)),
            ("elapsed_s", pa.float64()),
            ("verdict", verdict),
        ]
    )


# -- changing ---------------------------------------------------------------------------------------------------------


def _gc(arguments: argparse.Namespace) -> int:
    freed = collect_garbage(
        arguments.path,
        damaged=arguments.damaged,
        max_age_steps=arguments.max_age_steps,
        max_bytes=arguments.max_bytes,
    )
    return _report(arguments, freed)


def _reshard(arguments: argparse.Namespace) -> int:
    if arguments.dp_size < 1:
        raise ReuseStoreError(f"--dp-size={arguments.dp_size} must be at least 1.")
    shard_set = reshard(arguments.path, arguments.dp_size)
    return _report(arguments, {"shards": shard_set.dp_size, "version": shard_set.version})


def _import(arguments: argparse.Namespace, *, make_grader: MakeGrader) -> int:
    if not arguments.file.is_file():
        raise ReuseStoreError(f"there is no file {arguments.file} to import.")
    config = ReuseConfig(max_responses_per_prompt=arguments.max_responses_per_prompt)
    with ExitStack() as stack:
        grader = make_grader(_config_of(arguments), stack)
        return _report(
            arguments, import_lines(arguments.path, arguments.file, grader, config=config)
        )


def _regrade(arguments: argparse.Namespace, *, make_grader: MakeGrader) -> int:
    with ExitStack() as stack:
        grader = make_grader(_config_of(arguments), stack)
        return _report(arguments, regrade(arguments.path, grader))


def _config_of(arguments: argparse.Namespace) -> Path:
    folder = find_shards(arguments.path)[0].parent.parent
    config: Path = arguments.config or folder / "resolved_config.yaml"
    if not config.is_file():
        raise ReuseStoreError(f"there is no config {config}; name one with --config.")
    return config


def _report(arguments: argparse.Namespace, counts: dict[str, int]) -> int:
    print(
        json.dumps(counts) if arguments.json else ", ".join(f"{k} {v:,}" for k, v in counts.items())
    )
    return 0


# -- words ------------------------------------------------------------------------------------------------------------


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


def _evicted(row: StoredResponse) -> str:
    return (
        ""
        if row.evicted_step is None
        else f", evicted in step {row.evicted_step} (kept for a rollback)"
    )


def _loans(row: StoredResponse) -> str:
    lent = ", ".join(
        f"step {loan.step} (position {loan.position}, {loan.option})" for loan in row.loans
    )
    return f"{len(row.loans)} times: {lent}" if lent else "never"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"

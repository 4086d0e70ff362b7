"""`ar3po reuse VERB PATH`: look inside a store, and take care of it.

Reading verbs (stats, ls, show, verify, export) change nothing and are safe beside a running job. The others need the
store for themselves. `--json` prints one JSON object, or one a line for lists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.reuse.admin.exporting import export
from megatron_ar3po.reuse.admin.importing import import_lines
from megatron_ar3po.reuse.admin.inspection import find_shards
from megatron_ar3po.reuse.admin.looking import ls, show, stats, verify
from megatron_ar3po.reuse.admin.maintenance import (
    Grader,
    collect_garbage,
    regrade,
    reshard,
)
from megatron_ar3po.reuse.database import ReuseStoreError

MakeGrader = Callable[[Path, ExitStack], Grader]
"""Today's data and verifier, by the config file of a run; what must be closed goes on the stack."""


def add_reuse_parser(subparsers: Any, *, make_grader: MakeGrader) -> None:
    """`make_grader` brings data and verifier in, which this room does not know."""
    parser = subparsers.add_parser("reuse")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str, command: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about)
        sub.add_argument(
            "path", type=parse_path, help="a run's folder, its reuse folder, or one shard file"
        )
        sub.add_argument("--json", action="store_true", help="for scripts")
        sub.set_defaults(command=command)
        return sub

    verb("stats", stats, "how much each shard holds")
    listing = verb("ls", ls, "list stored responses, oldest first")
    listing.add_argument(
        "--prompt", default="", metavar="ID", help="of this prompt (the beginning will do)"
    )
    listing.add_argument("--limit", type=int, default=50, help="at most so many; 0: all (50)")
    showing = verb("show", show, "prompt, response and provenance of one stored response")
    showing.add_argument("response", help="its id, or the beginning of it")
    showing.add_argument(
        "--tokenizer",
        type=parse_path,
        help="folder of the tokenizer, where the noted one has moved",
    )
    verb(
        "verify",
        verify,
        "check every row's checksum and the structure of the files; exit code 1 on damage",
    )
    exporting = verb("export", export, "write all stored responses to a file")
    exporting.add_argument("file", type=parse_path, help="*.jsonl or *.parquet")
    exporting.add_argument(
        "--salvage", action="store_true", help="leave damaged rows out and go on"
    )

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
    importing.add_argument(
        "file", type=parse_path, help="one response a line, as export writes them"
    )
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
            type=parse_path,
            help="data and verifier of this config; default: resolved_config.yaml of the run",
        )


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

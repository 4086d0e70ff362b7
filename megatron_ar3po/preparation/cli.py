"""`ar3po data`: prompts before a run.

ar3po data prepare dapo_math math500 --out data            from the Hugging Face hub
ar3po data prepare math500 aime24 --from DIR --out data    from files that are here
ar3po data prepare mine.parquet --prompt-field q --answer-field meta.gold --out data
  ar3po data check data/dapo_math.jsonl data/math500.jsonl   what of the second stands in the first
ar3po data preview CONFIG                                  what a run would train on
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.preparation.catalogue import DATA_SETS, DataSet, find_data_set
from megatron_ar3po.preparation.check_cli import add_check_parser
from megatron_ar3po.preparation.preview_cli import add_preview_parser

if TYPE_CHECKING:
    from megatron_ar3po.preparation.fetching import FetchedFile

_PREPARE = """\
Write data sets in one form: DIR/NAME.jsonl, each row with prompt, answer, source, id, origin and hash, and beside it
DIR/NAME.provenance.json with where it came from and what was left out. A problem is kept once; ground truths go through
the verifier, and what it could never grade is left out and listed. The same input gives the same bytes.
"""


def add_data_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inner = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_prepare_parser(inner)
    add_check_parser(inner)
    add_preview_parser(inner)


def _add_prepare_parser(inner: Any) -> None:
    known = "".join(f"  {name:<14}{data_set.about}\n" for name, data_set in DATA_SETS.items())
    parser = inner.add_parser(
        "prepare",
        description=f"{_PREPARE}\nNAME is one of these, or a JSONL or Parquet file of your own:\n\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR")
    parser.add_argument(
        "--from",
        dest="folder",
        type=parse_path,
        metavar="FOLDER",
        help="with the sets' files [the hub]",
    )
    parser.add_argument(
        "--prompt-field", default="prompt", help="of your own file; dots reach within"
    )
    parser.add_argument("--answer-field", default="answer", help="of your own file")
    parser.add_argument(
        "--id-field", default="id", help="of your own file; without one, the line counts"
    )
    parser.add_argument("--keep", default="", metavar="FIELDS", help="of your own file, by commas")
    parser.add_argument("--source", default="", help="name of your own file's set [the file's]")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken rows out instead of refusing them"
    )
    parser.add_argument("--workers", type=int, help="verifier processes [all cores]")
    parser.set_defaults(command=prepare_command)


def prepare_command(arguments: argparse.Namespace) -> int:
    from megatron_ar3po.config.rewards import RewardsConfig
    from megatron_ar3po.preparation.fetching import FetchedFile, fetch_from_hub, find_local
    from megatron_ar3po.preparation.prepared_files import prepare
    from megatron_ar3po.rewards.prompt_grading import PromptGrading  # slow to import

    wanted: list[tuple[DataSet, list[FetchedFile]]] = []
    for name in arguments.names:
        if name not in DATA_SETS and (path := parse_path(name)).is_file():
            wanted.append((_own_set(path, arguments), [FetchedFile(path, path.name)]))
            continue
        data_set = find_data_set(name)
        files = (
            find_local(data_set, arguments.folder)
            if arguments.folder is not None
            else fetch_from_hub(data_set)
        )
        wanted.append((data_set, files))
    _check_outputs(wanted, arguments.out)
    grading = PromptGrading(
        RewardsConfig(num_workers=arguments.workers or os.cpu_count() or 1, timeout_s=30.0)
    )
    for data_set, files in wanted:
        prepared = prepare(
            data_set, files, arguments.out, grading, skips_broken=arguments.skip_broken
        )
        print(prepared.describe(), flush=True)
        for line in (*prepared.found.broken, *prepared.found.defects):
            print(f"  {line}", file=sys.stderr)
    return 0


def _check_outputs(wanted: list[tuple[DataSet, list[FetchedFile]]], out: Path) -> None:
    """Raises ValueError where a set would be written over a file that is read, or over another set."""
    read = {file.path.resolve() for _, files in wanted for file in files}
    written: set[str] = set()
    for data_set, _ in wanted:
        path = out / f"{data_set.name}.jsonl"
        if path.resolve() in read:
            raise ValueError(
                f"--out {out} would overwrite {path}, which is read; name another folder."
            )
        if data_set.name in written:
            raise ValueError(
                f"two of the sets would be written to {path}; prepare them one by one, with a --source of their own."
            )
        written.add(data_set.name)


def _own_set(path: Path, arguments: argparse.Namespace) -> DataSet:
    data_set = DataSet(
        name=arguments.source or path.stem,
        about=f"made of {path.name}",
        hub=None,
        prompt=(arguments.prompt_field,),
        answer=(arguments.answer_field,),
        ids=(arguments.id_field,),
    )
    kept = tuple(name.strip() for name in arguments.keep.split(",") if name.strip())
    if not data_set.name.strip() or "/" in data_set.name:
        raise ValueError(f"--source {data_set.name!r} names no file; use letters, digits, - and _.")
    return replace(data_set, keep=kept)

"""`ar3po data check TRAIN BENCH...`: problems of a benchmark among those that are trained on."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from megatron_ar3po.config.paths import parse_path

_ABOUT = """\
Which problems of the benchmarks stand in the training file: wholly (but for case, white space and LaTeX's layout), with
one word changed, or with 13 words in a row in common. Exit code 1 where there are some, unless --out leaves them
out.

A near pair may be two problems of one template. Judge it: --list FILE writes every pair with its hashes; change its
"verdict" to same, variant (the same question about other values), setting (another question about the same situation)
or different, and give the file to --judged. Pairs that are called different are overlaps no more.
"""


def add_check_parser(inner: Any) -> None:
    parser = inner.add_parser(
        "check", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", type=parse_path, metavar="TRAIN", help="JSONL or Parquet")
    parser.add_argument("benchmarks", type=parse_path, nargs="+", metavar="BENCH")
    parser.add_argument(
        "--out", type=parse_path, metavar="FILE", help="write TRAIN without the overlaps"
    )
    parser.add_argument(
        "--list", dest="listed", type=parse_path, metavar="FILE", help="write every pair as JSONL"
    )
    parser.add_argument(
        "--judged", type=parse_path, metavar="FILE", help="JSONL of pairs with verdicts"
    )
    parser.add_argument("--prompt-field", default="prompt", help="of all files")
    parser.add_argument("--answer-field", default="answer", help="of all files")
    parser.set_defaults(command=check_command)


def check_command(arguments: argparse.Namespace) -> int:
    from megatron_ar3po.preparation import overlaps

    out: Path | None = arguments.out
    inputs = [path.resolve() for path in (arguments.training, *arguments.benchmarks)]
    for option, path in (("--out", out), ("--list", arguments.listed)):
        if path is not None and path.resolve() in inputs:
            raise ValueError(
                f"{option} {path} would overwrite a file that is read; name another one."
            )
    fields = {"prompt_field": arguments.prompt_field, "answer_field": arguments.answer_field}
    judged = overlaps.read_judgements(arguments.judged) if arguments.judged else {}
    problems = [
        problem
        for path in arguments.benchmarks
        for problem in overlaps.read_problems(path, **fields)
    ]
    found = overlaps.find_overlaps(arguments.training, problems, judged=judged, **fields)
    if arguments.listed is not None:
        rows = (json.dumps(pair.as_row(), ensure_ascii=False) + "\n" for pair in found.pairs)
        arguments.listed.write_text("".join(rows), encoding="utf-8")
    for pair in found.pairs:
        if pair.is_overlap:
            print(
                f"{pair.training.where}: {pair.kind} of {pair.benchmark.where} ({pair.benchmark.name})"
            )
    for path in arguments.benchmarks:
        rows = sum(problem.where.rpartition(":")[0] == str(path) for problem in problems)
        counts = found.count(path)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in overlaps.KINDS)
        print(f"{path}: of {rows} rows {kinds}", file=sys.stderr)
    num_different = sum(not pair.is_overlap for pair in found.pairs)
    print(
        f"{arguments.training}: {len(found.lines)} of {found.num_training} rows overlap"
        + (f" ({num_different} pairs were judged different)" if num_different else ""),
        file=sys.stderr,
    )
    if out is None:
        return 1 if found.lines else 0
    num_left = overlaps.write_without(arguments.training, found.lines, out)
    print(f"{out}: {num_left} rows without them", file=sys.stderr)
    return 0

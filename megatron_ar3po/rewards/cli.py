"""`ar3po grade`: the verifier of a training run, for files and single pairs.

  ar3po grade --input FILE.jsonl --output FILE.jsonl    {"gold", "response"} or {"gold", "pred"} a line
  ar3po grade --gold '1/2' --pred '0.5'                 one pair, with the layers that were tried
  ar3po grade --check FILE.jsonl                        the ground truths that no response could ever equal

A "response" is a whole text, whose final answer is looked for (a box, an answer line, ####, "the answer is"); a "pred"
is an answer already; --kind overrules the name of the field. The output holds every field of the input and reward,
status, extracted, reason, elapsed_s, in the input's order; it appears when all lines are graded. A field "error" is the
absolute tolerance of its row. A line that cannot be read ends the command and is named, FILE:LINE.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.response_json import verdict_json
from megatron_ar3po.rewards.grade import Grade, own_tolerance
from megatron_ar3po.rewards.ground_truths import check_ground_truths
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool
from megatron_ar3po.types import Verdict

_IN_FLIGHT = 4096  # items between reading and writing


def add_grade_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "grade",
        help="grade responses or answers against ground truths",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", type=parse_path, help="JSONL: gold with response or pred")
    parser.add_argument(
        "--output", type=parse_path, help="JSONL: the same with reward, status, reason"
    )
    parser.add_argument(
        "--check",
        type=parse_path,
        metavar="FILE",
        help="JSONL: list its unusable ground truths; exit 1 if any",
    )
    parser.add_argument(
        "--answer-field", default="answer", help="with --check: the field of the ground truth"
    )
    parser.add_argument("--gold", help="one ground truth")
    parser.add_argument("--pred", help="one answer or response")
    parser.add_argument(
        "--kind",
        choices=["response", "answer"],
        help="what is graded: a whole response, or an answer; by default the field's name says",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for one item")
    parser.add_argument("--tolerance", type=float, default=0.0, help="absolute, of numbers")
    parser.add_argument(
        "--answer-format",
        default="any",
        choices=["any", "boxed", "answer_line", "hashes"],
        help="the mark of a response's final answer; any: whichever stands last",
    )
    parser.add_argument("--strict", action="store_true", help="only the named answer format counts")
    parser.set_defaults(command=run_grade)


def run_grade(args: argparse.Namespace) -> int:
    if sum(way is not None for way in (args.input, args.gold, args.check)) != 1:
        raise ValueError(
            "ar3po grade takes one of: --input and --output; --gold and --pred; --check FILE."
        )
    if args.check is not None:
        return _check_file(args)
    if args.gold is not None:
        if args.pred is None:
            raise ValueError(f"--gold {args.gold!r} has nothing to compare with; add --pred.")
        return _grade_pair(args)
    if args.output is None:
        raise ValueError(f"--input {args.input} needs --output: where to write the verdicts.")
    if args.output.resolve() == args.input.resolve():
        raise ValueError(f"--output {args.output} would overwrite --input; name another file.")
    return _grade_file(args)


def _settings(args: argparse.Namespace) -> PoolSettings:
    if args.strict and args.answer_format == "any":
        raise ValueError("--strict needs one --answer-format; use boxed, answer_line or hashes.")
    if args.workers < 1 or args.timeout <= 0:
        raise ValueError(f"--workers {args.workers} and --timeout {args.timeout} must be positive.")
    options = {
        "answer_format": args.answer_format,
        "strict": args.strict,
        "fallback": not args.strict,
        "tolerance": repr(args.tolerance),
    }
    return PoolSettings(options=options, num_workers=args.workers, timeout_s=args.timeout)


def _grade_pair(args: argparse.Namespace) -> int:
    args.workers = 1
    with VerifierPool(_settings(args)) as pool:
        is_answer = args.kind != "response"
        grade = pool.submit(args.pred, args.gold, is_answer=is_answer, show_layers=True).result()
    for number, line in enumerate(grade.tried, 1):
        print(f"{number:3d}  {line}")
    print(f"extracted  {grade.extracted}")
    print(f"status     {grade.status}  ({grade.reason})")
    reward = _reward(grade)
    print(f"reward     {'none' if reward is None else f'{reward:g}'}")
    return 0


def _grade_file(args: argparse.Namespace) -> int:
    if not args.input.is_file():
        raise ValueError(f"--input {args.input} is not a file.")
    settings = _settings(args)
    num_bytes = args.input.stat().st_size
    counts: Counter[str] = Counter()
    in_flight: deque[tuple[dict[str, Any], Future[Grade]]] = deque()
    console = Console(stderr=True)
    unfinished = args.output.with_name(f"{args.output.name}.unfinished")
    with (
        _remove_on_error(unfinished),
        unfinished.open("w", encoding="utf-8") as output,
        VerifierPool(settings) as pool,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("grade", total=num_bytes)
        for row, text, overrides, position in _read_rows(args.input, args.kind):
            in_flight.append((row, pool.submit(text, row["gold"], **overrides)))
            if len(in_flight) >= _IN_FLIGHT:
                _write(in_flight.popleft(), output, counts)
            progress.update(task, completed=position)
        while in_flight:
            _write(in_flight.popleft(), output, counts)
        progress.update(task, completed=num_bytes)
    unfinished.replace(args.output)
    total = sum(counts.values())
    shares = ", ".join(f"{status} {count}" for status, count in counts.most_common())
    print(f"{total} graded: {shares or 'nothing'}; written to {args.output}", file=sys.stderr)
    return 0


@contextmanager
def _remove_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # an interrupt too: no half file stays behind
        path.unlink(missing_ok=True)
        raise


def _check_file(args: argparse.Namespace) -> int:
    """Exit code 1 when a ground truth is unusable, so that a script that prepares data stops."""
    if not args.check.is_file():
        raise ValueError(f"--check {args.check} is not a file.")
    locations, answers = [], []
    for number, line in enumerate(args.check.read_bytes().splitlines(), 1):
        if line.strip():
            locations.append(f"{args.check}:{number}")
            answers.append(_answer_in(line, locations[-1], args.answer_field))
    config = RewardsConfig(num_workers=args.workers, timeout_s=args.timeout)
    unusable = 0
    for location, answer, reason in zip(
        locations, answers, check_ground_truths(answers, config), strict=True
    ):
        if reason is not None:
            unusable += 1
            print(f"{location}: {answer[:80]!r}: {reason}")
    print(f"{unusable} of {len(answers)} ground truths are unusable", file=sys.stderr)
    return 1 if unusable else 0


def _answer_in(line: bytes, location: str, field: str) -> str:
    row = _parse_json(line, location)
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise ValueError(f"{location} has no string {field!r}; name the field with --answer-field.")
    return row[field]


def _read_rows(
    path: Path, kind: str | None
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any], int]]:
    """(row, text to grade, overridden options, bytes read so far)."""
    position = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            position += len(line)
            if not line.strip():
                continue
            row = parse_row(line, f"{path}:{number}")
            field = "response" if isinstance(row.get("response"), str) else "pred"
            is_answer = kind == "answer" if kind else field == "pred"
            overrides: dict[str, Any] = {"is_answer": True} if is_answer else {}
            overrides |= own_tolerance(row.get("error"))
            yield row, row[field], overrides, position


def parse_row(line: bytes, location: str) -> dict[str, Any]:
    """A row to grade. Raises ValueError with `location` in it where it is none."""
    row = _parse_json(line, location)
    texts = [row.get(name) for name in ("response", "pred")] if isinstance(row, dict) else []
    if (
        not texts
        or not isinstance(row.get("gold"), str)
        or not any(isinstance(t, str) for t in texts)
    ):
        raise ValueError(f"{location} needs the strings 'gold' and one of 'response' and 'pred'.")
    return row


def _parse_json(line: bytes, location: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{location} is not JSON ({error}); write one object a line.") from None


def _write(
    graded: tuple[dict[str, Any], Future[Grade]], output: TextIO, counts: Counter[str]
) -> None:
    row, future = graded
    grade = future.result()
    counts[grade.status] += 1
    verdict = Verdict(
        reward=_reward(grade),
        status=grade.status,
        extracted=grade.extracted,
        reason=grade.reason,
        elapsed_s=round(grade.elapsed_s, 6),
    )
    output.write(json.dumps({**row, **verdict_json(verdict)}, ensure_ascii=False) + "\n")


def _reward(grade: Grade) -> float | None:
    if grade.status == "error":
        return None
    return 1.0 if grade.status == "correct" else 0.0

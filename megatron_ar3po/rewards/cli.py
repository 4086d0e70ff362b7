"""`ar3po grade`: the verifier of a training run, for files and single pairs.

  ar3po grade --input FILE.jsonl --output FILE.jsonl    {"gold", "response"} or {"gold", "pred"} a line
  ar3po grade --gold '1/2' --pred '0.5'                 one pair, with the layers that were tried
  ar3po grade --check FILE.jsonl                        the ground truths that no response could ever equal
  ar3po grade --config CONFIG.yaml --input ...          all of this with the verifiers and rewards of a run's config

A "response" is a whole text, whose final answer is looked for (a box, an answer line, ####, "the answer is"); a "pred"
is an answer already; --kind overrules the name of the field. The output holds every field of the input and reward,
status, extracted, reason, elapsed_s, in the input's order; it appears when all lines are graded. A field "error" is the
absolute tolerance of its row. With --config, which may be a run's resolved_config.yaml, the field "source" chooses
among the verifiers of rewards.by_source. A line that cannot be read ends the command and is named, FILE:LINE.
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
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from megatron_ar3po.config.data import source_of
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.response_json import verdict_json
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.source_graders import SourceGraders
from megatron_ar3po.rewards.verifier import reward_of
from megatron_ar3po.types import Prompt, Verdict

_IN_FLIGHT = 4096  # items between reading and writing


def add_grade_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "grade",
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
    parser.add_argument(
        "--config",
        type=parse_path,
        action="append",
        default=[],
        help="YAML of a run, whose section rewards grades",
    )
    parser.add_argument(
        "--source", default="", help="with --gold: of the pair, for rewards.by_source"
    )
    parser.add_argument("--workers", type=int, help="processes [all cores]")
    parser.add_argument("--timeout", type=float, help="seconds for one item [5]")
    parser.add_argument("--tolerance", type=float, default=0.0, help="absolute, of numbers")
    parser.add_argument(
        "--tolerance-field", default="error", help="of a row with a tolerance of its own"
    )
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


def _rewards_of(args: argparse.Namespace) -> RewardsConfig:
    """The section that grades: of --config, or what the other flags say."""
    _check_flags(args)
    workers = args.workers if args.workers is not None else os.cpu_count() or 1
    if args.config:
        config = load_config(args.config).rewards
        timeout = config.timeout_s if args.timeout is None else args.timeout
        return replace(config, num_workers=workers, timeout_s=timeout)
    return RewardsConfig(
        num_workers=workers,
        timeout_s=5.0 if args.timeout is None else args.timeout,
        answer_format=args.answer_format,
        strict_format=args.strict,
        answer_fallback=not args.strict,
        tolerance=args.tolerance,
        tolerance_field=args.tolerance_field,
    )


def _check_flags(args: argparse.Namespace) -> None:
    if args.strict and args.answer_format == "any":
        raise ValueError("--strict needs one --answer-format; use boxed, answer_line or hashes.")
    for flag, value in (("--workers", args.workers), ("--timeout", args.timeout)):
        if value is not None and not value > 0:  # NaN is not, either
            raise ValueError(f"{flag} {value} must be above 0.")
    if args.config and (
        (args.strict, args.answer_format, args.tolerance, args.tolerance_field)
        != (False, "any", 0.0, "error")
    ):
        raise ValueError(
            "--config says how answers are read; leave out --strict, --answer-format, --tolerance and "
            "--tolerance-field, or change rewards.* in the file."
        )


def _grade_pair(args: argparse.Namespace) -> int:
    args.workers = 1
    with SourceGraders(_rewards_of(args)) as graders:
        config = graders.config_of(args.source)
        is_answer = args.kind != "response"
        grade = graders.submit(
            args.pred, args.gold, source=args.source, is_answer=is_answer, show_layers=True
        ).result()
    for number, line in enumerate(grade.tried, 1):
        print(f"{number:3d}  {line}")
    print(f"extracted  {grade.extracted}")
    print(f"status     {grade.status}  ({grade.reason})")
    reward = reward_of(grade, config)
    print(f"reward     {'none' if reward is None else f'{reward:g}'}")
    return 0


def _grade_file(args: argparse.Namespace) -> int:
    if not args.input.is_file():
        raise ValueError(f"--input {args.input} is not a file.")
    rewards = _rewards_of(args)
    num_bytes = args.input.stat().st_size
    counts: Counter[str] = Counter()
    in_flight: deque[tuple[dict[str, Any], RewardsConfig, Future[Grade]]] = deque()
    console = Console(stderr=True)
    unfinished = args.output.with_name(f"{args.output.name}.unfinished")
    with (
        _remove_on_error(unfinished),
        unfinished.open("w", encoding="utf-8") as output,
        SourceGraders(rewards) as graders,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("grade", total=num_bytes)
        for row, text, is_answer, source, position in _read_rows(args.input, args.kind):
            overrides = {"is_answer": True} if is_answer else {}
            future = graders.submit(text, row["gold"], source=source, metadata=row, **overrides)
            in_flight.append((row, graders.config_of(source), future))
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
    grading = PromptGrading(_rewards_of(args))
    locations, prompts = [], []
    for number, line in enumerate(args.check.read_bytes().splitlines(), 1):
        if line.strip():
            locations.append(f"{args.check}:{number}")
            answer, source = _answer_in(line, locations[-1], args.answer_field)
            if grading.config_of(source) is None:
                raise ValueError(
                    f"{locations[-1]}: rewards.by_source names no verifier for the source {source!r}."
                )
            prompts.append(Prompt(prompt_id="", token_ids=(), ground_truth=answer, source=source))
    unusable = 0
    reasons = grading.why_unusable(prompts)
    for location, prompt, reason in zip(locations, prompts, reasons, strict=True):
        if reason is not None:
            unusable += 1
            print(f"{location}: {prompt.ground_truth[:80]!r}: {reason}")
    print(f"{unusable} of {len(prompts)} ground truths are unusable", file=sys.stderr)
    return 1 if unusable else 0


def _answer_in(line: bytes, location: str, field: str) -> tuple[str, str]:
    """The ground truth, and the source."""
    row = _parse_json(line, location)
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise ValueError(f"{location} has no string {field!r}; name the field with --answer-field.")
    return row[field], source_of(row)


def _read_rows(
    path: Path, kind: str | None
) -> Iterator[tuple[dict[str, Any], str, bool, str, int]]:
    """(row, text to grade, whether it is an answer already, source, bytes read so far)."""
    position = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            position += len(line)
            if not line.strip():
                continue
            row = parse_row(line, f"{path}:{number}")
            field = "response" if isinstance(row.get("response"), str) else "pred"
            is_answer = kind == "answer" if kind else field == "pred"
            yield row, row[field], is_answer, source_of(row), position


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
    graded: tuple[dict[str, Any], RewardsConfig, Future[Grade]],
    output: TextIO,
    counts: Counter[str],
) -> None:
    row, config, future = graded
    grade = future.result()
    counts[grade.status] += 1
    verdict = Verdict(
        reward=reward_of(grade, config),
        status=grade.status,
        extracted=grade.extracted,
        reason=grade.reason,
        elapsed_s=round(grade.elapsed_s, 6),
    )
    output.write(json.dumps({**row, **verdict_json(verdict)}, ensure_ascii=False) + "\n")

"""`ar3po init DIR --data my.jsonl --model PATH`: a config that trains here, each of its lines explained, and held-out
prompts set apart so that the run can tell whether it learns.

The prompts are read as the run will read them before anything is written: what could not be trained on is told now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.data.prompt_rows import read_rows
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.launch.config_text import FirstChoices, config_text
from megatron_ar3po.model_shape import ModelShape, read_policy_shape
from megatron_ar3po.observability.waiting import telling
from megatron_ar3po.platform.accelerator import has_gpu
from megatron_ar3po.wiring.prompt_reading import read_prompts

CONFIG, TRAIN, HELD_OUT = "config.yaml", "train.jsonl", "heldout.jsonl"
_PROMPT_FIELDS = ("prompt", "question", "problem", "input")
_ANSWER_FIELDS = ("answer", "ground_truth", "target", "solution")
_ONE_OF, _HELD_OUT_MOST, _LEAST_ROWS = 10, 256, 20
_LONGEST = 1 << 20


def add_init_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("init", description=__doc__)
    parser.add_argument("folder", type=parse_path, metavar="DIR", help="is made where it is not")
    parser.add_argument(
        "--data", type=parse_path, required=True, help="JSONL, one prompt with its answer a line"
    )
    parser.add_argument(
        "--model", type=parse_path, required=True, help="a Hugging Face folder on this machine"
    )
    parser.add_argument(
        "--held-out",
        type=parse_path,
        help="prompts to evaluate on [a tenth of --data, 256 at most]",
    )
    parser.add_argument(
        "--verifier", default="math", help="math, last_number, or package.module:function [math]"
    )
    parser.add_argument(
        "--max-response-tokens", type=int, default=0, help="[1024, or what the model has room for]"
    )
    parser.set_defaults(command=init_command)


def init_command(arguments: argparse.Namespace) -> int:
    target = arguments.folder / CONFIG
    if target.exists():
        raise ValueError(f"{target} is there already; name another folder, or move it away.")
    rows = list(read_rows(arguments.data))
    if not rows:
        raise ValueError(f"{arguments.data}: no prompt in the file; write one JSON object a line.")
    split = split_rows([record for _, record in rows], splits=arguments.held_out is None)
    if split.held_out:
        _check_nothing_is_overwritten(arguments.folder)
    choices = _choose(arguments, split)
    with telling(f"reading and checking the prompts of {arguments.data}", _say):
        longest = _longest_prompt(choices, arguments.data, arguments.held_out)
    choices = choices.with_longest_prompt(longest, arguments.max_response_tokens)
    _check(choices, arguments.data)
    _write(arguments.folder, choices, split)
    for line in _describe(target, split, choices):
        print(line)
    return 0


def _check_nothing_is_overwritten(folder: Path) -> None:
    for name in (TRAIN, HELD_OUT):
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} is there already, and the prompts of --data would be set apart in a file of that "
                "name; name another folder, or --held-out FILE for prompts that are held out already."
            )


class Split(NamedTuple):
    """The rows of --data; held out by a hash of what they ask, so that one prompt is never on both sides."""

    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    prompt_field: str
    answer_field: str


def split_rows(rows: Sequence[dict[str, Any]], *, splits: bool) -> Split:
    prompt_field = _find_field(_PROMPT_FIELDS, rows[0], "prompt")
    answer_field = _find_field(_ANSWER_FIELDS, rows[0], "answer")
    if not splits or len(rows) < _LEAST_ROWS:
        return Split(list(rows), [], prompt_field, answer_field)
    asked = [json.dumps(row.get(prompt_field), sort_keys=True) for row in rows]
    in_order = sorted(set(asked), key=lambda a: hashlib.blake2b(a.encode()).digest())
    apart = set(in_order[: min(_HELD_OUT_MOST, max(1, len(in_order) // _ONE_OF))])
    return Split(
        [row for row, a in zip(rows, asked, strict=True) if a not in apart],
        [row for row, a in zip(rows, asked, strict=True) if a in apart],
        prompt_field,
        answer_field,
    )


def _find_field(names: Sequence[str], row: dict[str, Any], what: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ValueError(
            f"the first line has the fields {sorted(row)}, and none of {', '.join(names)}: rename that of the {what} "
            f"to {names[0]!r}."
        )
    return found


def _choose(arguments: argparse.Namespace, split: Split) -> FirstChoices:
    shape = read_policy_shape(arguments.model)
    folder = arguments.folder.resolve()
    held_out = arguments.held_out.resolve() if arguments.held_out else folder / HELD_OUT
    on_gpu = has_gpu()
    return FirstChoices(
        name=folder.name,
        model=str(arguments.model.resolve()),
        max_positions=shape.max_positions,
        dtype="bfloat16" if on_gpu else "float32",
        on_gpu=on_gpu,
        data=str(folder / TRAIN if split.held_out else arguments.data.resolve()),
        held_out=str(held_out) if split.held_out or arguments.held_out else "",
        prompt_field=split.prompt_field,
        answer_field=split.answer_field,
        uses_template=_has_chat_template(arguments.model),
        verifier=arguments.verifier,
        prompts_per_step=min(64 if on_gpu else 16, len(split.training)),
        learning_rate=_learning_rate(shape),
    )


def _has_chat_template(model: Path) -> bool:
    if (model / "chat_template.jinja").is_file():
        return True
    settings = model / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_text("utf-8")).get("chat_template"))


def _learning_rate(shape: ModelShape) -> str:
    """A model of a laptop learns with a rate that would ruin a pretrained one."""
    if shape.num_parameters < 10e6:
        return "1.8e-4"
    return "5.0e-6" if shape.num_parameters < 1e9 else "1.0e-6"


def _longest_prompt(choices: FirstChoices, data: Path, held_out: Path | None) -> int:
    """In tokens, as the run will render them. Raises ValueError for what it could not train on."""
    words = [f"data.path={data}", f"data.max_prompt_tokens={_LONGEST}"]
    words += [f"evaluation.path={held_out}"] if held_out else []
    config = load_config([], [*choices.as_overrides(), *words])
    from megatron_ar3po.data.tokenizer import LateTokenizer

    prompts = read_prompts(config, LateTokenizer(config.model.path), datetime.now())
    return max(len(p.token_ids) for p in (*prompts.training, *prompts.held_out))


def _write(folder: Path, choices: FirstChoices, split: Split) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if split.held_out:
        for name, rows in ((TRAIN, split.training), (HELD_OUT, split.held_out)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / name).write_text(lines, encoding="utf-8")
    (folder / CONFIG).write_text(config_text(choices), encoding="utf-8")


def _check(choices: FirstChoices, data: Path) -> None:
    """What a run checks before its servers start, but for the prompts, which have been read."""
    from megatron_ar3po.wiring.start_checks import check_start

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(config_text(choices), encoding="utf-8")
        words = [f"data.path={data}", *([f"evaluation.path={data}"] if choices.held_out else [])]
        check_start(load_config([Path(folder) / CONFIG], words), ParallelLayout())


def _describe(target: Path, split: Split, choices: FirstChoices) -> list[str]:
    held_out = f"{len(split.held_out)} held out" if split.held_out else choices.held_out
    return [
        f"{target}: {len(split.training)} prompts to train on, "
        f"{held_out or 'none held out (too few lines): the run cannot tell whether it learns'}",
        f"next: ar3po train {target} --dry-run --show-prompts 3; then ar3po train {target}",
    ]


def _say(line: str) -> None:
    print(f"ar3po: {line}", file=sys.stderr, flush=True)

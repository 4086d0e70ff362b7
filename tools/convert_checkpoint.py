"""Converts the weights of a policy between a Hugging Face folder and a Megatron distributed checkpoint.

  python tools/convert_checkpoint.py to-megatron HF_FOLDER OUT
  python tools/convert_checkpoint.py to-hf RUN/checkpoints/step_00100/model OUT --like HF_FOLDER
  python tools/convert_checkpoint.py checksum FOLDER [--like HF_FOLDER]
  python tools/convert_checkpoint.py shards HF_FOLDER --tp 8 --pp 4

Training needs no conversion: a run starts from the Hugging Face folder (model.path), and
`checkpoint.export_hf=true` writes one at its end. This is for a policy that comes from Megatron or
goes there, and for looking at a checkpoint of a run with other tools.

The weights are streamed, so a 32B model needs the memory of one file, no GPU and one process. OUT
appears whole or not at all; the same command takes up an interrupted conversion. At the end every
tensor is read back and compared with its source, and the checksum is printed: it is that of the
Hugging Face tensors, the same for both formats, so two folders with one checksum hold the same
policy bit for bit.

`shards` converts nothing: it lists what each rank of a layout holds, padding and copies apart, from
config.json alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    there = verbs.add_parser("to-megatron", help="Hugging Face folder -> Megatron checkpoint")
    back = verbs.add_parser("to-hf", help="Megatron checkpoint -> Hugging Face folder")
    only = verbs.add_parser("checksum", help="of the policy in a folder of either kind")
    for verb in (there, back, only):
        verb.add_argument("source", type=Path, metavar="FOLDER")
        verb.add_argument("--json", action="store_true", help="the result as one JSON object")
    for verb in (there, back):
        verb.add_argument("target", type=Path, metavar="OUT")
        verb.add_argument(
            "--file-bytes",
            type=int,
            default=1 << 30,
            help="size of a written file; about as much memory is used (default: 1 GiB)",
        )
    for verb in (back, only):
        verb.add_argument(
            "--like",
            type=Path,
            required=verb is back,
            help="a Hugging Face folder of the same model: config.json and tokenizer are taken from it",
        )
    shards = verbs.add_parser("shards", help="what each rank of a layout holds")
    shards.add_argument("source", type=Path, metavar="HF_FOLDER")
    shards.add_argument("--tp", type=int, default=1, help="actor.tensor_parallel_size")
    shards.add_argument("--pp", type=int, default=1, help="actor.pipeline_parallel_size")
    shards.add_argument("--bytes-per-parameter", type=int, default=2, help="2: bf16")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "shards":
            print(shard_table(arguments))
            return 0
        checksum = run(arguments)
    except ValueError as error:  # a user can mend it, the message says how
        print(f"convert_checkpoint: error: {error}", file=sys.stderr)
        return 2
    result = {"folder": str(getattr(arguments, "target", arguments.source)), "checksum": checksum}
    print(json.dumps(result) if arguments.json else f"{result['folder']}: checksum {checksum}")
    return 0


def shard_table(arguments: argparse.Namespace) -> str:
    from megatron_ar3po.actor.rank_sizes import as_table, stage_sizes
    from megatron_ar3po.distributed.layout import ParallelLayout
    from megatron_ar3po.model_shape import read_policy_shape

    tp, pp = arguments.tp, arguments.pp
    shape = read_policy_shape(arguments.source)
    shape.check_layout(
        ParallelLayout(world_size=tp * pp, tensor_parallel_size=tp, pipeline_parallel_size=pp)
    )
    return as_table(stage_sizes(shape, tp=tp, pp=pp), tp, arguments.bytes_per_parameter)


def run(arguments: argparse.Namespace) -> str:
    """The checksum."""
    if not arguments.source.is_dir():
        raise ValueError(f"{arguments.source} is no folder.")
    if getattr(arguments, "file_bytes", 1) < 1:
        raise ValueError(f"--file-bytes {arguments.file_bytes} must be at least 1.")
    from megatron_ar3po.actor import conversion  # Megatron-Core is slow to import
    from megatron_ar3po.actor.megatron_folder import checksum
    from megatron_ar3po.model_shape import read_policy_shape

    with Bar() as bar:
        if arguments.verb == "to-megatron":
            return conversion.to_megatron(
                arguments.source,
                arguments.target,
                part_bytes=arguments.file_bytes,
                report=bar.report,
            )
        if arguments.verb == "to-hf":
            return conversion.to_hf(
                arguments.source,
                arguments.target,
                arguments.like,
                file_bytes=arguments.file_bytes,
                report=bar.report,
            )
        shape = read_policy_shape(str(arguments.like or arguments.source))
        is_hf = any(arguments.source.glob("*.safetensors"))
        digests = conversion.hf_digests if is_hf else conversion.megatron_digests
        return checksum(digests(arguments.source, shape, bar.report))


class Bar:
    """One line per phase on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, object] = {}

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._tasks[phase], completed=done)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())

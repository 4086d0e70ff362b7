"""Proves on one GPU what no test without one can: `make prove-gpu`, or

    python tools/prove_gpu.py [--out DIR] [--only NAME ...] [--minutes M] [--work DIR]

Runs the checks of tools/prove/table.py, each in a process of its own with a time limit, and goes on after one that
fails. Prints a line for each (pass, fail, or not available with what the machine lacks) and writes DIR/prove_gpu.md,
DIR/prove_gpu.json and a log for each check. Exit code 1 if one failed.

It needs no network and no `make setup`: torch, transformers, triton and Megatron-Core on the import path are enough for
the actor's checks, and SGLang for the servers'. Without a GPU what can run does so in a tiny form. docs/gpu.md says how
to carry Megatron-Core to a machine that has none, and what each check proves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # behind what is installed: the package of this checkout

from prove.findings import Row, as_json, as_markdown, as_text  # noqa: E402
from prove.running import look_around, run_checks, run_here  # noqa: E402
from prove.table import CHECKS, Check  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [check.name for check in CHECKS]
    parser.add_argument(
        "--out", type=Path, default=Path("runs/prove_gpu"), help="default: %(default)s"
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="for all checks; default: %(default)g"
    )
    parser.add_argument(
        "--work", type=Path, help="for models and checkpoints, up to 20 GB; default: a new folder"
    )
    for option in ("--one", "--device", "--result"):  # of the process of one check
        parser.add_argument(option, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        check = Check(**json.loads(arguments.one))
        run_here(check, arguments.device, work=arguments.work, result=Path(arguments.result))
        return 0
    chosen = [check for check in CHECKS if not arguments.only or check.name in arguments.only]
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    lacks = look_around()
    about = {
        "command": " ".join(["python", "tools/prove_gpu.py", *sys.argv[1:]]),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "machine": machine(lacks),
        "commit": commit(),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(
        dir=arguments.work, prefix="prove_gpu-", ignore_cleanup_errors=True
    ) as work:
        for row in run_checks(
            chosen,
            lacks,
            work=Path(work),
            logs=arguments.out / "logs",
            total_s=60 * arguments.minutes,
        ):
            print(as_text([row]), flush=True)
            rows.append(row)
            write(rows, about, arguments.out)
    failed = [row.name for row in rows if row.status == "fail"]
    passed = sum(row.status == "pass" for row in rows)
    print(
        f"{passed} passed, {len(failed)} failed, {len(rows) - passed - len(failed)} not available: "
        f"{arguments.out / 'prove_gpu.md'}"
    )
    return 1 if failed else 0


def write(rows: Sequence[Row], about: Mapping[str, str], out: Path) -> None:
    """After each check: what is known stays, whatever ends the program."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "prove_gpu.md").write_text(as_markdown(rows, about), encoding="utf-8")
    text = json.dumps(as_json(rows, about), indent=1, default=str)
    (out / "prove_gpu.json").write_text(text + "\n", encoding="utf-8")


def machine(lacks: Mapping[str, str]) -> str:
    if lacks["torch"] or lacks["gpu"]:
        return "no GPU"
    import torch

    name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
    return f"{name}, one of {count}" if count > 1 else name


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "not known"
    return done.stdout.strip() or "not known"


if __name__ == "__main__":
    sys.exit(main())

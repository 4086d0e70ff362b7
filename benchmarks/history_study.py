"""The second study of docs/comparison.md: its prompts, and what became of its runs.

python benchmarks/history_study.py prepare
    .cache/TASK/study/: held-out prompts whose source is their difficulty, 32 training prompts of each difficulty,
    and the suite that evaluates them
python benchmarks/history_study.py collect tuning_tiny_sum runs/tuning_tiny_sum
    the curves of the finished runs of a comparison -> benchmarks/results/history_study/tuning_tiny_sum.jsonl
python benchmarks/history_study.py winners
    stage one: each family's settings by the rule, and the arms of stage two
python benchmarks/history_study.py [table]
    stage two, and the test of stage three: the tables and verdicts of docs/comparison.md, as Markdown
python benchmarks/history_study.py figure
    stage two: docs/comparison_history.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from study.arms import read_arms
from study.figure import draw
from study.runs import collect
from study.tables import THIRDS, tell_results
from study.winners import tell_winners

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "comparison_history.png"
TASKS = ("tiny_sum", "tiny_sum_core", "tiny_sum_wide")
TRAINED = 32  # training prompts of each difficulty that are evaluated


def prepare(task: str) -> None:
    """Raises FileNotFoundError where tools/make_tiny_model.py has not made the task yet."""
    cache = ROOT / ".cache" / task
    if not (cache / "task.json").is_file():
        raise FileNotFoundError(
            f"{cache} has no task yet; make it first: python tools/make_tiny_model.py --task {task} --out .cache/{task}"
        )
    out = cache / "study"
    out.mkdir(exist_ok=True)
    held_out = read_prompts(cache / "heldout.jsonl")
    write_prompts(out / "heldout.jsonl", ({**row, "source": row["difficulty"]} for row in held_out))
    train = read_prompts(cache / "train.jsonl")
    sets: dict[str, Any] = {}
    for third in THIRDS:
        rows = [row for row in train if row["difficulty"] == third]
        step = max(len(rows) // TRAINED, 1)
        file = out / f"train_{third}.jsonl"
        write_prompts(file, rows[::step][:TRAINED])
        sets[f"train_{third}"] = {"path": str(file.relative_to(ROOT)), "samples": 4}
    (out / "suite.yaml").write_text(json.dumps({"sets": sets}, indent=1) + "\n", "utf-8")
    print(f"{out}: {len(held_out)} held-out prompts, suite of {', '.join(sets)}")


def read_prompts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_prompts(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("prepare")
    collecting = commands.add_parser("collect")
    collecting.add_argument("name", help="of the file of curves: tuning_TASK or TASK")
    collecting.add_argument("comparison", type=Path, metavar="DIR")
    commands.add_parser("winners")
    commands.add_parser("table")
    commands.add_parser("figure")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        try:
            for task in TASKS:
                prepare(task)
        except FileNotFoundError as error:
            parser.error(str(error))
    elif arguments.command == "collect":
        try:
            print(collect(arguments.name, arguments.comparison))
        except ValueError as error:
            parser.error(str(error))
    elif arguments.command == "figure":
        draw([arms for arms in map(read_arms, TASKS) if arms is not None], FIGURE)
        print(FIGURE)
    elif arguments.command == "winners":
        print("\n\n".join(tell_winners(task) for task in TASKS))
    else:
        told = [tell_results(task) for task in TASKS]
        told += [tell_results(task, "confirmation_") for task in TASKS[:2]]
        print("\n\n".join(told))


if __name__ == "__main__":
    main()

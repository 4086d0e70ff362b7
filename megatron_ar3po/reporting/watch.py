"""`ar3po watch RUN`: a run while it works, on any machine that sees its folder. It reads files and asks nobody: a run
does not notice that it is watched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.reporting.run_watch import RunWatch
from megatron_ar3po.reporting.sparkline import BLOCKS, PLAIN
from megatron_ar3po.reporting.watch_screen import screen_of


def add_watch_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "watch",
        description="A run while it works, on any machine that sees its folder: progress, curves, phases, ranks, "
        "servers, the last warnings. Ends with the run. Exit code 1 when a rank has failed or is not heard of.",
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument("--once", action="store_true", help="print it once, for scripts")
    parser.add_argument("--json", action="store_true", help="once, as JSON")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="look so often [2]"
    )
    parser.set_defaults(command=watch_command)


def watch_command(arguments: argparse.Namespace) -> int:
    if not arguments.every > 0:
        raise ValueError(f"--every {arguments.every} must be more than 0 seconds.")
    watched = RunWatch(arguments.run)
    view = watched.look(time.time())
    if arguments.json:
        print(json.dumps(asdict(view)))
        return int(view.is_in_trouble)
    console = Console(highlight=False)
    marks = BLOCKS if "utf" in (console.encoding or "").lower() else PLAIN
    if arguments.once or not sys.stdout.isatty():
        console.print(screen_of(view, marks=marks))
        return int(view.is_in_trouble)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(screen_of(view, marks=marks), refresh=True)
                if view.has_ended:
                    break
                time.sleep(arguments.every)
                view = watched.look(time.time())
    except KeyboardInterrupt:  # who watches may leave; the run goes on
        pass
    return int(view.is_in_trouble)

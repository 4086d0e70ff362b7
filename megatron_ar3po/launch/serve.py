"""`ar3po serve CONFIG`: the server that a run of CONFIG would start, for runs that attach to it (`servers.urls`), one
at a time. It ends with Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import shlex
import signal
import time
from pathlib import Path
from typing import Any, Protocol

from megatron_ar3po.config.command_line import split_files
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config

_LOOK_EVERY_S = 1.0


class Served(Protocol):
    """What `comparison/servers.py` offers; the tests have one without a process."""

    def words_for(self, config: Config) -> list[str]: ...

    def are_running(self) -> bool: ...

    def discard(self) -> None: ...


def add_serve_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("serve", description=__doc__)
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG", help="YAML files, then key=value words, of the run"
    )
    parser.set_defaults(command=serve_command)


def serve_command(arguments: argparse.Namespace) -> int:
    from megatron_ar3po.comparison.servers import SharedServers

    files, overrides = split_files(arguments.config)
    if not files:
        raise ValueError("no config file given; name that of the runs that will attach.")
    config = load_config(files, overrides)
    if config.servers.urls:
        raise ValueError(
            f"servers.urls={config.servers.urls} names servers that run; leave it out."
        )
    logs = Path("runs") / "serving" / config.run.name  # not the run's folder, which stays its own
    servers = SharedServers(logs, report=lambda line: print(line, flush=True))
    return serve(config, servers, words=shlex.join(arguments.config), logs=logs)


def serve(config: Config, servers: Served, *, words: str, logs: Path) -> int:
    """Until it is told to end, or a server has ended: exit code 1 then."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        attach = " ".join(servers.words_for(config))
        print(f"attach with: ar3po train {words} {attach}", flush=True)
        while servers.are_running():
            time.sleep(_LOOK_EVERY_S)
        print(f"a server has ended; its log is in {logs}", flush=True)
        return 1
    except KeyboardInterrupt:  # as it is meant to end
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        servers.discard()

"""One SGLang server: `python -m megatron_ar3po.platform.sglang_launch PARENT_PID FOLDER [early] ARGUMENTS`. FOLDER is
its TMPDIR, where SGLang leaves sockets and metric files behind; ARGUMENTS is a JSON object of ServerArgs. With `early`
it imports, and waits to be handed over all of them (`handed_over`).

The server and all its children end when a byte arrives on standard input, or with the process PARENT_PID
(`process_guard`), and leave no temporary files. Without a GPU the shims of `sglang_cpu` are applied first; beside one
this is plain SGLang.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_ar3po.platform.handed_over import take_over
from megatron_ar3po.platform.process_guard import start_guard
from megatron_ar3po.platform.server_lease import ServerLease

PROCESS_HEADER = "x-ar3po-server"  # of every answer: which process of which server, as dp0.s1/2
PROCESS_VARIABLE = "AR3PO_SERVER_PROCESS"
OWNER_VARIABLE = "AR3PO_SERVER_OWNER"  # the one client that it is for; empty: any, one at a time


def shared_memory_files(group: int) -> set[Path]:
    """What the schedulers of this server map under SGLang's name: it unlinks them only when it ends by itself."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                maps = (process / "maps").read_text(encoding="utf-8", errors="replace")
                found.update(re.findall(r"/dev/shm/sglang_loads_\S+", maps))
        except OSError:
            continue  # it ended meanwhile
    return {Path(name) for name in found}


def remove_shared_memory_files() -> None:
    for path in shared_memory_files(os.getpgrp()):
        path.unlink(missing_ok=True)


def name_answers(app: Any, process: str) -> None:
    """Behind a router the client would otherwise not know who answered."""
    header = (PROCESS_HEADER.encode(), process.encode())

    class NamedAnswers:
        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def send_named(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", ()), header]}
                await send(message)

            await self._app(scope, receive, send_named)

    app.add_middleware(NamedAnswers)


@contextlib.contextmanager
def light_imports() -> Iterator[None]:
    """No garbage is collected within it: imports leave little, and a quarter of their processor time goes into looking
    for it. What exists at its end is there to stay, for the children that are forked too.

    `megatron` is not found from now on. SGLang imports it where it is installed, to name ranks in its debugging dumps;
    it is the trainer's."""
    sys.modules["megatron"] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_server(known: dict[str, Any]) -> tuple[Any, Callable[[dict[str, Any]], None]]:
    """The application, and what serves it, with its arguments, until the server ends."""
    import torch

    if not torch.cuda.is_available():
        from megatron_ar3po.platform import sglang_cpu

        sglang_cpu.apply_shims(seeded=known.get("enable_deterministic_inference", False))

    from sglang.launch_server import run_server
    from sglang.srt.entrypoints.http_server import app
    from sglang.srt.server_args import ServerArgs

    return app, lambda arguments: run_server(ServerArgs(**arguments))


def main() -> None:
    parent_pid, temporary = int(sys.argv[1]), sys.argv[2]
    start_guard(parent_pid, temporary, before_end=remove_shared_memory_files)
    *early, stated = sys.argv[3:]
    arguments = json.loads(stated)

    with light_imports():
        app, run = import_server(arguments)
    if early:
        arguments = take_over(Path(temporary))
    app.add_middleware(ServerLease, owner=os.environ.get(OWNER_VARIABLE, ""))
    if process := os.environ.get(PROCESS_VARIABLE):
        name_answers(app, process)

    from sglang.srt.utils import kill_process_tree

    try:
        run(arguments)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()

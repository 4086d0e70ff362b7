"""One `sglang-router`: `python -m megatron_ar3po.servers.router_process PARENT_PID FOLDER ARGUMENTS`. Ends with its
parent, as the servers do. ARGUMENTS: a JSON object of the router's own options.

The router holds Python's lock for as long as it runs, so no thread beside it could watch the parent. It gets a process
of its own (`... router_process ARGUMENTS`), in the group that the guard ends as a whole.
"""

from __future__ import annotations

import json
import subprocess
import sys

from megatron_ar3po.platform.process_guard import die_with_parent, start_guard


def main() -> None:
    if len(sys.argv) == 2:
        run_router(sys.argv[1])
        return
    start_guard(int(sys.argv[1]), sys.argv[2])
    module = "megatron_ar3po.servers.router_process"
    sys.exit(subprocess.call([sys.executable, "-W", "ignore", "-m", module, sys.argv[3]]))


def run_router(arguments: str) -> None:
    """Until it is killed; it dies with its guard, too."""
    die_with_parent()
    from sglang_router.router import Router
    from sglang_router.router_args import RouterArgs

    Router.from_args(RouterArgs(**json.loads(arguments))).start()


if __name__ == "__main__":
    main()

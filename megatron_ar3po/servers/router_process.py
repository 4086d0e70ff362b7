"""One `sglang-router`: `python -m megatron_ar3po.servers.router_process PARENT_PID FOLDER ARGUMENTS`. Ends with its
parent, as the servers do. ARGUMENTS: a JSON object of the router's own options."""

from __future__ import annotations

import json
import sys

from megatron_ar3po.platform.process_guard import start_guard


def main() -> None:
    start_guard(int(sys.argv[1]), sys.argv[2])
    from sglang_router.router import Router
    from sglang_router.router_args import RouterArgs

    Router.from_args(RouterArgs(**json.loads(sys.argv[3]))).start()


if __name__ == "__main__":
    main()

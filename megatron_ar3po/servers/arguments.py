"""Config -> SGLang's ServerArgs, by SGLang's own names. Each choice has its reason beside it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.servers.ports import HOST

# On a GPU: weights and KV cache of a server, as a share of the memory that is free when it allocates, beside an actor
# that is parked. The rest is for its activations and CUDA graphs, and for the actor's weights when a server that is
# started anew in a rollout asks for them.
MEM_FRACTION_STATIC = 0.75

# Options that the trainer sets itself: a second value would contradict it.
_OURS = {
    "model_path": "model.path",
    "dtype": "model.dtype",
    "port": "servers.port",
    "host": "the nodes of the run (AR3PO_NODE_ADDRESS)",
    "tp_size": "actor.tensor_parallel_size and servers.servers_per_replica",
    "enable_deterministic_inference": "run.deterministic",
    "skip_tokenizer_init": "token in, token out",
    "gated_launch_port": "the run, which opens the gate when the actor is parked",
}


def server_arguments(
    config: ServersConfig,
    *,
    model_path: str,
    dtype: str,
    host: str = HOST,
    port: int,
    tensor_parallel_size: int,
    is_deterministic: bool,
    on_gpu: bool,
) -> dict[str, Any]:
    check_pass_through(config.sglang)
    arguments: dict[str, Any] = {
        "model_path": str(Path(model_path).resolve()),
        "dtype": dtype,
        "host": host,
        "port": port,
        "tp_size": tensor_parallel_size,
        "skip_tokenizer_init": True,  # token in, token out: responses bypass the detokenizer
        # On a GPU kernels compile in the first request, which must not be one that is watched for a hang. On a CPU
        # nothing compiles, and it saves two seconds.
        "skip_server_warmup": not on_gpu,
        "sleep_on_idle": True,  # an idle scheduler would otherwise take one of the trainer's cores
        "enable_metrics": True,  # the counters that the ledger is held against
        "log_level_http": "warning",  # no line per request
        "decode_log_interval": 1000,
    }
    if is_deterministic:
        arguments["enable_deterministic_inference"] = True
    if on_gpu:
        arguments |= {
            "enable_memory_saver": True,  # sleep and wake: the GPU changes hands with the actor
            "mem_fraction_static": MEM_FRACTION_STATIC,
        }
    else:
        arguments |= {
            "device": "cpu",
            "attention_backend": "torch_native",
            "max_total_tokens": config.max_total_tokens,
            "disable_overlap_schedule": True,  # nothing overlaps on a CPU, and each response costs a step more
        }
    return arguments | dict(config.sglang)


def check_pass_through(options: Mapping[str, Any]) -> None:
    """`servers.sglang` speaks ServerArgs' names; what it does not know, or we set ourselves, is refused here."""
    for name in options:
        if name in _OURS:
            raise ValueError(
                f"servers.sglang.{name} is set by {_OURS[name]}; remove it from servers.sglang."
            )
    known = server_argument_names() if options else []
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"the nearest one is {near[0]}"
                if near
                else "see `python -m sglang.launch_server --help`"
            )
            raise ValueError(f"servers.sglang.{name} is no option of this SGLang; {hint}.")


def server_argument_names() -> list[str]:
    """Read from SGLang's source: to import ServerArgs takes ten seconds, and the server is not started before this."""
    package = importlib.util.find_spec("sglang")
    if package is None or not package.submodule_search_locations:
        raise ValueError("servers.sglang needs SGLang, which is not installed; see README.md.")
    path = Path(package.submodule_search_locations[0]) / "srt/arg_groups/field_order.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            return list(ast.literal_eval(statement.value))
    raise AssertionError(f"{path} no longer lists the fields of ServerArgs")

"""What a layout must be to fit its nodes: one list for `ar3po plan`, the trainer and its --dry-run, `ar3po launch` on
a login node, and the check of each node before its ranks start. Plain arithmetic: no torch.

`check_job_layout` also holds the options against each other (`config.validate`), once the number of ranks is known.
"""

from __future__ import annotations

from pathlib import Path

from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import validate, validate_without_model
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, read_model_shape
from megatron_ar3po.servers.placement import server_placements


def layout_of_job(config: Config, *, rank: int = 0, world_size: int) -> ParallelLayout:
    """Raises ValueError where the ranks make no whole number of replicas."""
    actor = config.actor
    return ParallelLayout(
        world_size=world_size,
        rank=rank,
        tensor_parallel_size=actor.tensor_parallel_size,
        pipeline_parallel_size=actor.pipeline_parallel_size,
        context_parallel_size=actor.context_parallel_size,
    )


def check_job_layout(
    config: Config,
    *,
    num_nodes: int,
    ranks_per_node: int,
    gpus_per_node: int,
    config_file: str | Path = "",
) -> ParallelLayout:
    """Before a job is submitted, and on its nodes before a rank starts. The model may be elsewhere: its shape is that
    of model_config.json beside `config_file` then; without one, what needs it is left to the nodes. Raises
    ValueError."""
    require(
        not gpus_per_node or ranks_per_node <= gpus_per_node,
        f"{ranks_per_node} ranks are to start on nodes of {gpus_per_node} GPUs; start at most one for each (lower "
        "NPROC_PER_NODE or --nproc-per-node), or ask for more GPUs.",
    )
    layout = layout_of_job(config, world_size=num_nodes * ranks_per_node)
    has_gpus = gpus_per_node > 0
    shape = _find_shape(config, config_file)
    if shape is None:
        validate_without_model(config, layout, has_gpu=lambda: has_gpus)
    else:
        validate(config, layout, shape=shape, has_gpu=lambda: has_gpus)
    check_placement(config, layout, ranks_per_node=ranks_per_node, has_gpus=has_gpus, shape=shape)
    return layout


def _find_shape(config: Config, config_file: str | Path) -> ModelShape | None:
    """What is wrong with the config.json of a model that is here is the trainer's to say."""
    beside = Path(config_file).parent / "model_config.json"
    is_here = (Path(config.model.path) / "config.json").is_file()
    if not is_here and not (config_file and beside.is_file()):
        return None
    try:
        return read_model_shape(config.model.path if is_here else beside)
    except ValueError:
        return None


def check_placement(
    config: Config,
    layout: ParallelLayout,
    *,
    ranks_per_node: int,
    has_gpus: bool,
    shape: ModelShape | None = None,
) -> None:
    """Where ranks and servers come to sit. Raises ValueError for the first rule that does not hold."""
    trains, samples = config.debug.mode != "rollout_only", config.debug.mode != "train_only"
    if has_gpus:
        _check_tensor_parallel_within_nodes(layout, ranks_per_node)
    if trains:
        _check_context_parallel(layout, has_gpus)
    if samples:
        _check_servers(config, layout, ranks_per_node, has_gpus, shape)


def _check_tensor_parallel_within_nodes(layout: ParallelLayout, ranks_per_node: int) -> None:
    tp = layout.tensor_parallel_size
    fitting = [n for n in range(1, ranks_per_node + 1) if not ranks_per_node % n]
    require(
        tp in fitting,
        f"actor.tensor_parallel_size={tp} would cut a tensor across nodes of {ranks_per_node} GPUs; use one of "
        f"{', '.join(map(str, fitting))}.",
    )


def _check_context_parallel(layout: ParallelLayout, has_gpus: bool) -> None:
    size = layout.context_parallel_size
    require(
        has_gpus or size == 1,
        f"actor.context_parallel_size={size} needs Transformer Engine's attention, which needs GPUs; set "
        "actor.context_parallel_size=1. Long sequences also fit with actor.sequence_parallel=true, "
        "actor.recompute=full or a larger actor.tensor_parallel_size.",
    )


def _check_servers(
    config: Config,
    layout: ParallelLayout,
    ranks_per_node: int,
    has_gpus: bool,
    shape: ModelShape | None,
) -> None:
    """The servers of the first replica, and for a server over several GPUs that it can cut the model's heads."""
    size = server_tensor_parallel_size(config, layout, ranks_per_node, has_gpus=has_gpus)
    if shape is None or config.servers.urls or shape.fits_server_tensor_parallel(size):
        return
    raise ValueError(
        f"servers.servers_per_replica={config.servers.servers_per_replica} gives each server {size} GPUs of its "
        f"replica ({layout.describe()}, nodes of {ranks_per_node}), and {shape.num_heads} attention heads with "
        f"{shape.num_kv_heads} key and value heads are not cut into {size}; "
        f"{_server_sizes_that_fit(config, layout, ranks_per_node, shape)}"
    )


def _server_sizes_that_fit(
    config: Config, layout: ParallelLayout, ranks_per_node: int, shape: ModelShape
) -> str:
    there = gpus_of_replica_on_a_node(layout, ranks_per_node)
    nodes = nodes_of_replica(layout, ranks_per_node)
    fitting = [
        nodes * number
        for number in range(1, there + 1)
        if not there % number and shape.fits_server_tensor_parallel(there // number)
    ]
    if not fitting:
        return "use another actor.tensor_parallel_size or actor.pipeline_parallel_size."
    return f"use servers.servers_per_replica={' or '.join(map(str, fitting))}."


def server_tensor_parallel_size(
    config: Config, layout: ParallelLayout, ranks_per_node: int, *, has_gpus: bool = True
) -> int:
    """GPUs of one server, by the function that places them. Raises ValueError where they are not shared out evenly."""
    placements = server_placements(
        layout,
        servers_per_replica=config.servers.servers_per_replica,
        gpus=tuple(map(str, range(ranks_per_node))) if has_gpus else (),
        ranks_per_node=ranks_per_node,
    )
    return placements[0].tensor_parallel_size


def gpus_of_replica_on_a_node(layout: ParallelLayout, ranks_per_node: int) -> int:
    """On its leader's."""
    ranks = layout.replica_ranks(layout.dp_rank)
    return sum(rank // ranks_per_node == ranks[0] // ranks_per_node for rank in ranks)


def nodes_of_replica(layout: ParallelLayout, ranks_per_node: int) -> int:
    return len({rank // ranks_per_node for rank in layout.replica_ranks(layout.dp_rank)})

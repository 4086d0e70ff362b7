import pytest

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.servers.node_address import node_address
from megatron_ar3po.servers.placement import is_first_of_replica_here, server_placements

EIGHT = [str(i) for i in range(8)]


def place_servers(layout: ParallelLayout, servers: int, *, gpus=EIGHT, ranks_per_node: int = 8):
    placements = server_placements(
        layout, servers_per_replica=servers, gpus=gpus, ranks_per_node=ranks_per_node
    )
    return [(p.name, p.number, p.node, p.gpu_ids, p.tensor_parallel_size) for p in placements]


def test_two_servers_share_the_gpus_of_their_replica():
    layout = ParallelLayout(world_size=8, rank=4, tensor_parallel_size=4)
    assert place_servers(layout, 2) == [
        ("dp1.s0", 2, 0, ("4", "5"), 2),
        ("dp1.s1", 3, 0, ("6", "7"), 2),
    ]


def test_a_replica_of_two_nodes_has_servers_on_each_and_none_spans_them():
    """tp 4 x pp 2 x dp 2 on two nodes of eight: replica 0 has ranks 0 to 3 and 8 to 11."""
    options = {"world_size": 16, "tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    layout = ParallelLayout(rank=0, **options)
    assert place_servers(layout, 2) == [
        ("dp0.s0", 0, 0, ("0", "1", "2", "3"), 4),
        ("dp0.s1", 1, 1, ("0", "1", "2", "3"), 4),
    ]
    assert [name for name, *_ in place_servers(layout, 4)] == [
        "dp0.s0",
        "dp0.s1",
        "dp0.s2",
        "dp0.s3",
    ]
    assert [(node, gpus) for _, _, node, gpus, _ in place_servers(layout, 4)] == [
        (0, ("0", "1")),
        (0, ("2", "3")),
        (1, ("0", "1")),
        (1, ("2", "3")),
    ]
    # fewer than nodes: only the leader's node samples
    assert [node for _, _, node, _, _ in place_servers(layout, 1)] == [0]
    owners = [
        rank
        for rank in range(16)
        if is_first_of_replica_here(ParallelLayout(rank=rank, **options), 8)
    ]
    assert owners == [0, 4, 8, 12]


def beside(layout: ParallelLayout, servers: int, **options):
    placements = server_placements(
        layout, servers_per_replica=servers, **({"gpus": EIGHT, "ranks_per_node": 8} | options)
    )
    return [placement.beside_ranks for placement in placements]


def test_each_rank_of_a_server_sits_beside_the_trainers_rank_on_its_gpu():
    second = ParallelLayout(world_size=8, rank=4, tensor_parallel_size=4)
    assert beside(second, 1) == [(4, 5, 6, 7)]
    assert beside(second, 2) == [(4, 5), (6, 7)]
    assert beside(second, 4) == [(4,), (5,), (6,), (7,)]
    # tp 4 x pp 2 x dp 2 on two nodes: replica 1 has ranks 4 to 7 and 12 to 15, gpus 4 to 7 of each node.
    two_nodes = ParallelLayout(
        world_size=16, rank=4, tensor_parallel_size=4, pipeline_parallel_size=2
    )
    assert beside(two_nodes, 2) == [(4, 5, 6, 7), (12, 13, 14, 15)]


def test_without_gpus_servers_of_one_rank_are_shared_out_over_the_ranks():
    alone = ParallelLayout()
    assert beside(alone, 2, gpus=[], ranks_per_node=1) == [(0,), (0,)]
    four = ParallelLayout(world_size=4, tensor_parallel_size=4)
    assert beside(four, 1, gpus=[], ranks_per_node=4) == [(0,)]
    assert beside(four, 2, gpus=[], ranks_per_node=4) == [(0,), (2,)]


@pytest.mark.parametrize(
    ("servers", "message"),
    [
        (3, r"servers_per_replica=3 cannot be shared out evenly over the 2 nodes of replica 0"),
        (6, r"servers_per_replica=6 puts 3 servers on node 0, which does not divide the 4 GPUs"),
    ],
)
def test_servers_that_do_not_divide_nodes_or_gpus_are_refused(servers, message):
    layout = ParallelLayout(world_size=16, tensor_parallel_size=4, pipeline_parallel_size=2)
    with pytest.raises(ValueError, match=message):
        place_servers(layout, servers)


def test_a_nodes_address_is_the_one_that_is_stated_or_the_one_on_the_way_to_the_first_node(
    monkeypatch,
):
    monkeypatch.delenv("AR3PO_NODE_ADDRESS", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert node_address() == "127.0.0.1"
    monkeypatch.setenv("AR3PO_NODE_ADDRESS", "127.0.0.3")
    assert node_address() == "127.0.0.3"
    monkeypatch.setenv("AR3PO_NODE_ADDRESS", "node7")
    with pytest.raises(ValueError, match="AR3PO_NODE_ADDRESS=node7 is no IPv4 address"):
        node_address()

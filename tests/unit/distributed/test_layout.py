import pytest

from megatron_ar3po.distributed.layout import ParallelLayout, owner_dp_rank


def layout(rank: int, tp: int = 2, pp: int = 2, world: int = 8) -> ParallelLayout:
    return ParallelLayout(
        world_size=world, rank=rank, tensor_parallel_size=tp, pipeline_parallel_size=pp
    )


def test_ranks_of_tp2_pp2_world_8_sit_where_the_docstring_draws_them():
    coordinates = [(p.tp_rank, p.dp_rank, p.pp_rank) for p in map(layout, range(8))]
    assert [t for t, _, _ in coordinates] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert [d for _, d, _ in coordinates] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [p for _, _, p in coordinates] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert layout(0).replica_ranks(1) == [2, 3, 6, 7]
    assert [r for r in range(8) if layout(r).is_leader] == [0, 2]


def test_a_world_that_does_not_fit_names_the_sizes_and_a_command():
    with pytest.raises(ValueError, match=r"world size 6 .*tensor_parallel_size=2 .*=2 = 4 ranks"):
        layout(0, world=6)


def test_the_owner_of_a_prompt_depends_on_the_prompt_and_the_dp_size_alone():
    prompt_id = "00000000000000ff" + "0" * 16  # 255
    assert layout(0).owner_dp_rank(prompt_id) == 1
    assert layout(5).owner_dp_rank(prompt_id) == 1
    assert ParallelLayout(world_size=4).owner_dp_rank(prompt_id) == 3
    assert owner_dp_rank(prompt_id, 7) == 3  # 255 = 36 * 7 + 3; the later digits count nothing


def test_ranks_of_tp2_cp2_dp2_world_8():
    """rank = tp + 2 * (cp + 2 * dp): context ranks are neighbours, and a replica has one leader."""
    at = [
        ParallelLayout(world_size=8, rank=r, tensor_parallel_size=2, context_parallel_size=2)
        for r in range(8)
    ]
    assert [x.tp_rank for x in at] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert [x.cp_rank for x in at] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [x.dp_rank for x in at] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (
        [x.rank for x in at if x.is_leader]
        == [0, 4]
        == [x.leader_rank(d) for x in at[:1] for d in (0, 1)]
    )
    assert at[0].replica_ranks(1) == [4, 5, 6, 7]
    assert at[0].describe() == "tp 2 x pp 1 x cp 2 x dp 2"

"""A rank is one when all four variables say so; a part of them is left over from another program."""

import pytest

from megatron_ar3po.distributed.launched_ranks import (
    drop_leftover_ranks,
    gpu_of_rank,
    read_rank,
)

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "20007"}


@pytest.mark.parametrize(
    "leftover",
    [
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_PORT": "1"},
        {"RANK": "1"},
        {"WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "n1", "MASTER_PORT": "1"},
        {"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"},
        {"RANK": "one", "WORLD_SIZE": "many"},
    ],
    ids=" ".join,
)
def test_a_part_of_them_is_dropped_with_one_sentence(leftover):
    environment = {"PATH": "/usr/bin", **leftover}
    said = drop_leftover_ranks(environment)
    assert environment == {"PATH": "/usr/bin"}
    assert all(f"{n}={v}" in said for n, v in leftover.items() if not n.startswith("TORCHE"))
    assert "left over" in said and "torchrun" in said
    assert read_rank(environment) == (0, 1)


def test_all_of_them_start_a_rank():
    environment = dict(WHOLE)
    assert drop_leftover_ranks(environment) == "" and environment == WHOLE
    assert read_rank(environment) == (1, 4)


def test_an_address_alone_is_slurms():
    environment = {"MASTER_ADDR": "n1", "MASTER_PORT": "20007"}
    assert drop_leftover_ranks(environment) == ""
    assert environment == {"MASTER_ADDR": "n1", "MASTER_PORT": "20007"}


def test_a_command_of_one_process_takes_none():
    environment = dict(WHOLE)
    assert drop_leftover_ranks(environment, is_alone=True) == "" and environment == {}


@pytest.mark.parametrize(
    ("rank", "size"), [("4", "4"), ("-1", "4"), ("a", "4"), ("0", ""), ("0", "0")]
)
def test_what_is_no_rank_is_refused(rank, size):
    with pytest.raises(ValueError, match=f"RANK={rank} of the environment is none of WORLD_SIZE"):
        read_rank(WHOLE | {"RANK": rank, "WORLD_SIZE": size})


def test_a_rank_without_a_gpu_is_refused():
    assert gpu_of_rank({}, 1) == 0 and gpu_of_rank({"LOCAL_RANK": "7"}, 8) == 7
    hidden = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "7"}
    with pytest.raises(ValueError, match=r"GPU 1 .* CUDA shows 1 \(CUDA_VISIBLE_DEVICES=7\)"):
        gpu_of_rank(hidden, 1)
    for stated, shown in (("x", "x"), ("", r"\(empty\)"), ("-1", "-1")):
        with pytest.raises(
            ValueError, match=f"^LOCAL_RANK={shown} of the environment is no number"
        ):
            gpu_of_rank({"LOCAL_RANK": stated}, 8)

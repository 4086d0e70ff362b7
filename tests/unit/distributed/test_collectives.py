"""Two gloo processes, once as one replica and once as two: what a leader may ask while others wait, and who learns of a
failure."""

import multiprocessing
import threading

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from megatron_ar3po.distributed.collectives import PeerError, Ranks
from megatron_ar3po.distributed.layout import ParallelLayout


def _rank(rank: int, folder: str, results) -> None:
    dist.init_process_group("gloo", store=FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    results.put((rank, {tp: _outcome(rank, tp) for tp in (2, 1)}))
    dist.destroy_process_group()


def _outcome(rank: int, tp: int) -> tuple:
    ranks = Ranks(ParallelLayout(world_size=2, rank=rank, tensor_parallel_size=tp), timeout_s=30)
    served: list[int] = []
    ranks.offer("note", served.append)

    def task() -> str:
        ranks.call_in_replica("note", 7)
        return f"from {rank}"

    def fail() -> None:
        raise ValueError("no disk")

    said = ranks.run_on_leader(task)
    error = ""
    try:
        ranks.run_on_first(fail)
    except (ValueError, PeerError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    return said, served, error, ranks.any(rank == 1), ranks.gather_over_replicas(rank), _keep(ranks)


def _keep(ranks: Ranks) -> tuple:
    """A lock cannot be pickled: what is kept must not travel."""

    def make() -> "threading.Lock":
        ranks.call_in_replica("note", 8)
        return threading.Lock()

    def fail_on_1() -> str:
        if ranks.layout.rank == 1:
            raise ValueError("no room")
        return "made"

    lock = ranks.only_on_leader(make)
    name = ranks.only_on_first(lambda: f"rank {ranks.layout.rank}")
    try:
        made = str(ranks.only_on_leader(fail_on_1))
    except (ValueError, PeerError) as raised:
        made = f"{type(raised).__name__}: {raised}"
    return lock is not None, name, made


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[int, dict[int, tuple]]:
    """What each rank saw, by the tensor parallel size."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    folder = str(tmp_path_factory.mktemp("ranks"))
    processes = [context.Process(target=_rank, args=(r, folder, results)) for r in (0, 1)]
    for process in processes:
        process.start()
    got = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    return got


@pytest.mark.parametrize("tp", [2, 1], ids=["one replica", "two replicas"])
def test_leaders_speak_for_their_replica_and_a_failure_reaches_everyone(outcomes, tp):
    said_0, served_0, error_0, any_0, peers_0, _ = outcomes[0][tp]
    said_1, served_1, error_1, any_1, _, _ = outcomes[1][tp]
    assert said_0 == "from 0"
    assert said_1 == ("from 0" if tp == 2 else "from 1")
    assert served_0 == served_1 == [7, 8]
    assert error_0 == "ValueError: no disk"
    assert error_1.startswith("PeerError: rank 0 failed") and "no disk" in error_1
    assert any_0 and any_1
    assert peers_0 == ([0] if tp == 2 else [0, 1])


def test_what_only_a_leader_makes_stays_with_it(outcomes):
    """As one replica rank 0 leads alone; as two each rank leads its own, and the failure of one raises on both."""
    assert outcomes[0][2][-1] == (True, "rank 0", "made")
    assert outcomes[1][2][-1] == (False, None, "None")
    holds_0, name_0, made_0 = outcomes[0][1][-1]
    holds_1, name_1, made_1 = outcomes[1][1][-1]
    assert (holds_0, holds_1) == (True, True)
    assert (name_0, name_1) == ("rank 0", None)
    assert made_0.startswith("PeerError: rank 1 failed") and "no room" in made_0
    assert made_1 == "ValueError: no room"

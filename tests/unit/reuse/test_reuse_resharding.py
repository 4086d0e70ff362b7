"""The same store at any data-parallel size, whatever interrupts the change."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.reuse_cases import alive, contents, deposit, make_prompt, make_response, open_store

from megatron_ar3po.reuse.resharding import ShardBuilder


def fill(folder: Path, dp_size: int, num_prompts: int = 12) -> list[Path]:
    """Three steps with a cap of 2: deposits, evictions and loans in every shard."""
    paths = []
    for rank in range(dp_size):
        with open_store(folder, dp_rank=rank, dp_size=dp_size, max_responses_per_prompt=2) as store:
            mine = [make_prompt(n) for n in range(num_prompts) if n % dp_size == rank]
            for step in (1, 2, 3):
                deposit(store, [make_response(p, step=step) for p in mine], step=step)
                for position, prompt in enumerate(mine[::2]):
                    store.borrow(prompt.prompt_id, step=step, position=position)
            assert store.cursor == {"step": 3}
            paths.append(store.path)
    return paths


def open_all(folder: Path, dp_size: int, **config: object) -> list[Path]:
    paths = []
    for rank in range(dp_size):
        with open_store(folder, dp_rank=rank, dp_size=dp_size, **config) as store:
            paths.append(store.path)
    return paths


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (2, 3), (3, 2), (4, 1), (1, 5)])
def test_a_resharded_store_holds_the_same_responses_evictions_and_loans(
    tmp_path: Path, old: int, new: int
) -> None:
    before = contents(*fill(tmp_path, old))
    paths = open_all(tmp_path, new)
    assert contents(*paths) == before and len(before) == 36
    assert sorted(p.name for p in tmp_path.glob("*.sqlite")) == [p.name for p in paths]
    for rank, path in enumerate(paths):
        owners = {int(name.split("-p")[1].split("-")[0]) % new for name in contents(path)}
        assert owners == {rank}


def test_prompt_ids_with_the_highest_bit_set_find_their_owner(tmp_path: Path) -> None:
    """SQLite's integers are signed; ids from 2^63 on and below must come out alike."""
    numbers = [2**64 - 1, 2**63, 2**63 - 1, 0, 2**63 + 1, 5]
    with open_store(tmp_path) as store:
        deposit(store, [make_response(make_prompt(n), step=1) for n in numbers], step=1)
    for rank, path in enumerate(open_all(tmp_path, 3)):
        assert alive(path) == {f"s1-p{n}-i0" for n in numbers if n % 3 == rank}


def test_a_rollback_after_resharding_gives_the_state_of_that_step(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    before = contents(*fill(reference, 1))
    at_step_2 = {
        name: (
            step,
            evicted if evicted and evicted <= 2 else None,
            tuple(x for x in loans if x[0] <= 2),
            crc,
        )
        for name, (step, evicted, loans, crc) in before.items()
        if step <= 2
    }
    fill(tmp_path, 2)
    paths = open_all(tmp_path, 3)
    for rank in range(3):
        with open_store(tmp_path, dp_rank=rank, dp_size=3) as store:
            store.rollback({"step": 2})
    rolled = contents(*paths)
    positions_aside = {k: (*v[:2], [x[0] for x in v[2]], v[3]) for k, v in rolled.items()}
    assert {k: v[:2] for k, v in positions_aside.items()} == {
        k: v[:2] for k, v in at_step_2.items()
    }
    assert all(max(loans, default=0) <= 2 for _, _, loans, _ in positions_aside.values())


def test_the_old_shards_stay_whole_until_the_last_new_one_is_there(tmp_path: Path) -> None:
    old = fill(tmp_path, 2)
    before = contents(*old)
    with open_store(tmp_path, dp_rank=0, dp_size=3):
        assert contents(*old) == before
    with open_store(tmp_path, dp_rank=2, dp_size=3):
        assert contents(*old) == before
    with open_store(tmp_path, dp_rank=1, dp_size=3):
        assert not any(path.exists() for path in old)


def test_an_interrupted_resharding_is_taken_up_again_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fill(tmp_path, 2)
    before = contents(*old)
    open_store(tmp_path, dp_rank=0, dp_size=3).close()

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ShardBuilder, "seal", kill)
        with pytest.raises(KeyboardInterrupt):
            open_store(tmp_path, dp_rank=1, dp_size=3)
    assert contents(*old) == before
    assert not list(tmp_path.glob("*.building"))

    # given up: the run goes on at its old size, and the half-made set is gone before anything is written
    for rank in range(2):
        with open_store(tmp_path, dp_rank=rank, dp_size=2) as store:
            assert sorted(p.name for p in tmp_path.glob("*.sqlite")) == [p.name for p in old]
            deposit(store, [make_response(make_prompt(rank), step=4)], step=4)
    # and taken up later, it starts from what is there now
    assert len(contents(*open_all(tmp_path, 3))) == 36 + 2


def test_resharding_back_and_forth_gives_new_versions(tmp_path: Path) -> None:
    before = contents(*fill(tmp_path, 2))
    names = [[p.name for p in open_all(tmp_path, size)] for size in (1, 2, 2)]
    assert names[0] == ["dp00_of_01.v2.sqlite"]
    assert names[1] == names[2] == ["dp00_of_02.v3.sqlite", "dp01_of_02.v3.sqlite"]
    assert contents(*(tmp_path / name for name in names[2])) == before


def test_a_shard_with_a_live_writer_is_not_resharded(tmp_path: Path) -> None:
    old = fill(tmp_path, 2)
    with open_store(tmp_path, dp_rank=1, dp_size=2):
        with pytest.raises(ValueError, match=r"dp01_of_02\.sqlite has another writer"):
            open_store(tmp_path, dp_rank=0, dp_size=1)
    assert all(path.exists() for path in old)

"""The long and the destructive forms of the reuse store's tests: `make chaos`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.reuse_cases import alive, deposit, make_prompt, make_response, open_store
from fakes.reuse_crash import kill_at_random_moments

from megatron_ar3po.reuse.admin.inspection import verify_shard
from megatron_ar3po.reuse.database import ReuseStoreError
from megatron_ar3po.types import ScoredResponse

pytestmark = pytest.mark.chaos

DISK_BYTES = 3 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=30)


def test_every_acknowledged_deposit_survives_200_kills_at_random_moments(tmp_path: Path) -> None:
    assert kill_at_random_moments(tmp_path, num_kills=200, seed=1) >= 100
    assert list(verify_shard(tmp_path / "dp00_of_01.sqlite")) == []


def test_deposits_acknowledged_before_the_disk_was_full_are_there_and_the_store_goes_on(
    small_disk: Path,
) -> None:
    """Ten times: deposit until nothing fits beside a ballast, look, take the ballast away, go on."""
    for part in range(10):
        folder, ballast = small_disk / "store", small_disk / "ballast"
        ballast.write_bytes(bytes(DISK_BYTES // (2 + part % 5)))
        step, num_tokens = 0, 500 + 137 * part
        with open_store(folder, max_responses_per_prompt=1000) as store:
            with pytest.raises(ReuseStoreError, match="no space left on the disk of"):
                while step < 1000:
                    deposit(store, responses_of(step + 1, num_tokens), step + 1)
                    step += 1  # acknowledged
            acknowledged = {
                r.response.response_id for s in range(1, step + 1) for r in responses_of(s)
            }
            assert alive(store.path) == acknowledged and len(acknowledged) == 8 * step > 0
            ballast.unlink()
            assert deposit(store, responses_of(step + 1, num_tokens), step + 1) == 8
            path = store.path
        assert list(verify_shard(path)) == []
        shutil.rmtree(folder)


def responses_of(step: int, num_tokens: int = 1) -> list[ScoredResponse]:
    return [make_response(make_prompt(n), step, num_tokens=num_tokens) for n in range(8)]

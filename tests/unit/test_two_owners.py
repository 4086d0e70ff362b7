"""Two processes and one folder, again and again: few times here, a hundred times in the long form (`make chaos`).

On a network file system too, where there is one: AR3PO_NFS_FOLDER names a folder on it, or two that are the same one
through two mounts, with a colon between. What it does not show: nodes with clocks and caches of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.two_owners import check_newcomers, check_refusals

# How often, and how long the longest refusal may take: on a busy machine one in a few may wait for a disk.
TRIES = [(5, 10.0), pytest.param(100, 1.0, marks=pytest.mark.chaos)]


@pytest.fixture(params=["local", "nfs"])
def mounts(request, tmp_path: Path) -> Iterator[list[Path]]:
    """One folder, as two processes see it."""
    if request.param == "local":
        yield [tmp_path, tmp_path]
        return
    stated = os.environ.get("AR3PO_NFS_FOLDER", "")
    if not stated:
        pytest.skip("AR3PO_NFS_FOLDER names no folder on a network file system")
    roots = [Path(part) for part in stated.split(":")]
    made = Path(tempfile.mkdtemp(prefix="two_owners_", dir=roots[0]))
    yield [made, roots[-1] / made.name]
    shutil.rmtree(made)


@pytest.mark.parametrize(("num_tries", "limit_s"), TRIES)
@pytest.mark.parametrize("host", ["", "node17"], ids=["this host", "another host"])
def test_a_second_owner_is_refused_within_a_second_and_the_first_is_untouched(
    mounts, host, num_tries, limit_s
):
    first, second = (mount / "run" for mount in mounts)
    figures = check_refusals(first, second, num_tries=num_tries, host=host, limit_s=limit_s)
    assert figures.startswith(f"{num_tries} refusals")
    print(figures)  # shown with -s


@pytest.mark.parametrize(("num_tries", "limit_s"), TRIES)
@pytest.mark.parametrize("host", ["", "node17"], ids=["one host", "two hosts"])
def test_of_two_newcomers_at_one_moment_exactly_one_becomes_the_owner(
    mounts, host, num_tries, limit_s
):
    figures = check_newcomers(mounts, ["", host], num_tries=num_tries, limit_s=limit_s)
    assert figures.startswith(f"{num_tries} times two newcomers, one owner each")
    print(figures)  # shown with -s

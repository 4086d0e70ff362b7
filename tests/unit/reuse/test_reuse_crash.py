"""Killed in the middle: the short form. tests/chaos/test_reuse_chaos.py has 200 kills and a full disk."""

from __future__ import annotations

from pathlib import Path

from fakes.reuse_crash import kill_at_random_moments


def test_every_acknowledged_deposit_survives_20_kills_at_random_moments(tmp_path: Path) -> None:
    assert kill_at_random_moments(tmp_path, num_kills=20) >= 10

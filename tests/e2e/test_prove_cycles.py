"""The servers' checks of tools/prove_gpu.py, with a real server on the CPU. The others of them were run there by hand:
each starts a server of its own."""

from __future__ import annotations

from prove.stand import tiny_stand


def test_server_and_actor_take_turns_five_times(tmp_path):
    from prove.server_checks import LARGEST_MEAN, five_cycles

    finding = five_cycles(tiny_stand(tmp_path, models=tmp_path))
    assert finding.problem == ""
    assert len(finding.facts["mean_differences"]) == 5
    assert 0 < max(finding.facts["mean_differences"]) <= LARGEST_MEAN

"""What `run.deterministic` sets for the actor. That a run repeats itself: tests/e2e/test_deterministic_runs.py; GPUs
are not exercised here."""

from __future__ import annotations

import pytest

from megatron_ar3po.platform.determinism import prepare_environment


def test_what_is_not_set_is_set_and_what_fits_stays():
    environment = {"NCCL_ALGO": "Tree", "HOME": "/root"}
    prepare_environment(environment)
    assert environment == {
        "HOME": "/root",
        "NCCL_ALGO": "Tree",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    }


@pytest.mark.parametrize(
    ("name", "value", "use"),
    [
        ("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1", "0"),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", ":4096:8 or :16:8"),
        ("NCCL_ALGO", "NVLS", "Ring or Tree"),
    ],
)
def test_what_contradicts_is_refused_by_name_with_what_to_use(name, value, use):
    with pytest.raises(ValueError, match=rf"run.deterministic=true, but {name}={value} .*{use}"):
        prepare_environment({name: value})

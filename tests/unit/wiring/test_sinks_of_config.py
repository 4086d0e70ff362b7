"""What of a config is shown in W&B and MLflow."""

from __future__ import annotations

import doctest
from pathlib import Path

from megatron_ar3po.config.load import load_config
from megatron_ar3po.wiring import metric_sinks

ROOT = Path(__file__).parents[3]


def test_the_examples_of_the_docstrings_hold():
    results = doctest.testmod(metric_sinks)
    assert results.failed == 0 and results.attempted >= 2


def test_a_password_in_an_address_is_in_no_option_that_is_shown():
    words = ["observability.mlflow=https://user:abc@mlflow.example:5000"]
    config = load_config([ROOT / "examples/tiny_sum/config.yaml"], words)
    shown = metric_sinks._options_of(config)
    assert shown["observability.mlflow"] == "https://(not shown)@mlflow.example:5000"
    assert "abc" not in str(shown)

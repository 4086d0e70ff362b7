"""Rules of `reuse.replay_frac` that span sections, a part of `validate.py`."""

from __future__ import annotations

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config


def check_replay(config: Config) -> None:
    """Raises ValueError for the first rule that does not hold."""
    algorithm, frac = config.algorithm, config.reuse.replay_frac
    require(
        not frac or algorithm.kl_in == "loss" or algorithm.kl_coef == 0,
        "algorithm.kl_in=reward makes the advantages of a step anew once its KL is known, but reuse.replay_frac="
        f"{frac:g} replays rows with the advantage that they had; set algorithm.kl_in=loss or reuse.replay_frac=0.",
    )


def replay_warnings(config: Config) -> list[str]:
    """Options that have no effect in this setup, one line each."""
    window = config.reuse.replay_window
    if config.reuse.replay_frac or window == ReuseConfig().replay_window:
        return []
    return [f"reuse.replay_window={window} has no effect with reuse.replay_frac=0."]

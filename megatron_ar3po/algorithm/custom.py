"""The user's own advantages and loss: `algorithm.advantage` and `algorithm.policy_loss` by import path."""

from __future__ import annotations

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.user_functions import UserFunction, is_import_path, load_user_function


def load_advantage_function(path: str) -> UserFunction:
    """(groups, config), or with the prompts' records before the step as `history`: one a group."""
    return load_user_function("algorithm.advantage", path, "groups", "config", optional="history")


def load_policy_loss_function(path: str) -> UserFunction:
    return load_user_function("algorithm.policy_loss", path, "logprobs", "micro_batch", "config")


def check_custom_functions(config: AlgorithmConfig) -> None:
    """Imports every function the config names by path; ValueError when one is missing or does not
    fit."""
    if is_import_path(config.advantage):
        load_advantage_function(config.advantage)
    if is_import_path(config.policy_loss):
        load_policy_loss_function(config.policy_loss)

"""A user's own function, named in the config by its import path 'package.module:function'.

It takes the place of a built-in one and has the same parameters:

    algorithm.advantage    (groups, config) -> one [G] array per group          advantages.py
    algorithm.policy_loss  (logprobs, micro_batch, config) -> TokenLoss         token_losses.py
    reuse.pick             (candidates, request) -> one of the candidates or None  reuse/choice.py

It is imported and its signature compared when the run starts (`check_custom_functions`), so that a
misspelt name costs a second and not a rollout; what it returns is checked on every call.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from megatron_ar3po.config.schema import AlgorithmConfig

PARAMETERS = {
    "algorithm.advantage": ("groups", "config"),
    "algorithm.policy_loss": ("logprobs", "micro_batch", "config"),
    "reuse.pick": ("candidates", "request"),
}


def is_import_path(value: str) -> bool:
    return ":" in value


def check_custom_functions(config: AlgorithmConfig) -> None:
    """Imports every function the config names by path; ValueError when one is missing or does not
    fit."""
    for option, value in (
        ("algorithm.advantage", config.advantage),
        ("algorithm.policy_loss", config.policy_loss),
    ):
        if is_import_path(value):
            load_custom(option, value)


def call_custom(option: str, path: str, *arguments: Any) -> Any:
    """The function's answer. What it raises is raised again under the option's name, with the
    original as its cause."""
    function = load_custom(option, path)
    try:
        return function(*arguments)
    except Exception as error:  # a user's code may raise anything; nothing is swallowed, only named
        raise ValueError(f"{option}={path} raised {type(error).__name__}: {error}") from error


@cache
def load_custom(option: str, path: str) -> Callable[..., Any]:
    """The function at `path`, callable with the option's parameters by position."""
    module_name, _, function_name = path.partition(":")
    parameters = ", ".join(PARAMETERS[option])
    found, expected = f"{option}={path}", f"define it as: def {function_name}({parameters})."
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"{found}: module {module_name!r} cannot be imported ({error}); write "
            "'package.module:function' and put the package on PYTHONPATH."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(
            f"{found}: {module.__file__} has no function {function_name!r}; {expected}"
        )
    signature = inspect.signature(function)
    try:
        signature.bind(*PARAMETERS[option])
    except TypeError as error:
        raise ValueError(
            f"{found}: {function_name}{signature} cannot take ({parameters}): {error}; {expected}"
        ) from error
    return function

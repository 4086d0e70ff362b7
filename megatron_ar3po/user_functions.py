"""A user's own function, named in the config by its import path 'package.module:function'.

It takes the place of a built-in one and has the same parameters, which the room that calls it names. It is imported and
its parameters are compared when the run starts, so that a misspelt name costs a second and not a rollout; what it
returns is checked, on every call, by the room that knows what it should be. Whatever goes wrong in the user's code is
raised under the option's name with the user's own error and the lines it came from.

    algorithm.advantage    (groups, config[, history]) -> one [G] array per group  algorithm/advantages.py
    algorithm.policy_loss  (logprobs, micro_batch, config) -> TokenLoss            algorithm/token_losses.py
    data.selection         (counts) -> [N] weights of these prompts                algorithm/prompt_selection.py
    reuse.pick             (candidates, request) -> one of the candidates or None  reuse/choice.py
    rewards.verifier       (rewards_config) -> (response, ground_truth) -> Grade   rewards/worker.py
    rollout.stage_rule     (prompt, solved_by_stage) -> int, or
                           (prompt, stages, history) -> int                        rollout/stage_plans.py

A parameter in brackets is passed where the function has it, by that name and in that place.

Nothing heavy is imported here: the verifier's workers load it at their start.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = f"{Path(__file__).parent}/"
_SHOWN_FRAMES = 3


class UserFunctionError(ValueError):
    """The user's function cannot be had, or failed: the message is a help page."""


@dataclass(frozen=True, slots=True)
class UserFunction:
    """Called like the function itself."""

    option: str
    path: str
    function: Callable[..., Any]
    takes_optional: bool = False  # whether it has the parameter that it need not have

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except Exception as error:  # a user's code may raise anything; it is named, not swallowed
            raise UserFunctionError(
                f"{self.option}={self.path} raised {explain_user_error(error)}"
            ) from error


def is_import_path(value: str) -> bool:
    return ":" in value


@cache
def load_user_function(
    option: str, path: str, *parameters: str, optional: str = ""
) -> UserFunction:
    """The function at `path`, callable with `parameters` by position, and with one more where it has one named
    `optional` in that place."""
    found = f"{option}={path}"
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise UserFunctionError(f"{found} is no import path; write 'package.module:function'.")
    module = _import_module(found, module_name)
    forms = [", ".join(parameters), *([", ".join((*parameters, optional))] if optional else [])]
    expected = "define it as: " + ", or ".join(f"def {name}({form})" for form in forms) + "."
    if not hasattr(module, name):
        where = getattr(module, "__file__", None) or module_name  # one of Python's own has none
        raise UserFunctionError(f"{found}: {where} has no function {name!r}; {expected}")
    function = getattr(module, name)
    takes_optional = bool(optional) and _has_parameter(function, optional, at=len(parameters))
    if takes_optional:
        parameters = (*parameters, optional)
    check_parameters(function, parameters, f"{found}: {name}", expected)
    return UserFunction(option, path, function, takes_optional)


def check_parameters(
    function: object, parameters: tuple[str, ...], called: str, expected: str
) -> None:
    """Raises unless `function` can be called with as many arguments by position."""
    if not callable(function):
        raise UserFunctionError(
            f"{called} is no function but of type {type(function).__name__}; {expected}"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C do not tell theirs
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise UserFunctionError(
            f"{called}{signature} cannot take ({', '.join(parameters)}): {error}; {expected}"
        ) from error


def _has_parameter(function: object, name: str, *, at: int) -> bool:
    try:
        names = list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no function, or one in C that does not tell
        return False
    return names[at : at + 1] == [name]


def explain_user_error(error: Exception) -> str:
    """The error and where in the user's own code it came from; our frames and importlib's are not theirs to mend."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_PACKAGE) and "importlib" not in frame.filename
    ]
    lines = [f"{type(error).__name__}: {error}"]
    lines += [
        f"  at {frame.filename}:{frame.lineno}: {frame.line}" for frame in frames[-_SHOWN_FRAMES:]
    ]
    return "\n".join(lines)


def _import_module(found: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UserFunctionError(
                f"{found}: there is no module {error.name!r}; write 'package.module:function' and put the package on "
                "PYTHONPATH."
            ) from error
        raise _import_error(found, module_name, error) from error
    except Exception as error:  # a user's module may raise anything; it is named, not swallowed
        raise _import_error(found, module_name, error) from error


def _import_error(found: str, module_name: str, error: Exception) -> UserFunctionError:
    return UserFunctionError(
        f"{found}: importing module {module_name!r} raised {explain_user_error(error)}"
    )

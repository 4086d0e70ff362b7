"""The one loader of functions named by import path, and what it says when the user's code is at fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ar3po.user_functions import UserFunctionError, load_user_function

Write = Callable[[str], str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a user's module of a name that no other test uses, and returns that name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"users_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")

    def write(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        load_user_function.cache_clear()
        return name

    return write


def message_of(path: str) -> str:
    with pytest.raises(UserFunctionError) as raised:
        load_user_function("reuse.pick", path, "candidates", "request")
    return str(raised.value)


def test_the_function_is_called_like_itself(write_module: Write) -> None:
    name = write_module("def last(candidates, request): return candidates[-1]\n")
    pick = load_user_function("reuse.pick", f"{name}:last", "candidates", "request")
    assert pick([1, 2, 3], None) == 3


@pytest.mark.parametrize(
    ("path", "missing"), [("nowhere:f", "nowhere"), ("json.nowhere.deep:f", "json.nowhere")]
)
def test_a_missing_module_is_named_with_what_to_do(path: str, missing: str) -> None:
    assert message_of(path) == (
        f"reuse.pick={path}: there is no module {missing!r}; write 'package.module:function' and put the package on "
        "PYTHONPATH."
    )


@pytest.mark.parametrize("path", ["module", ":function", "module:", ""])
def test_half_a_path_is_no_path(path: str) -> None:
    assert message_of(path) == (
        f"reuse.pick={path} is no import path; write 'package.module:function'."
    )


def test_a_missing_function_is_named_with_its_file_and_how_it_is_defined(
    write_module: Write, tmp_path: Path
) -> None:
    name = write_module("")
    assert message_of(f"{name}:last") == (
        f"reuse.pick={name}:last: {tmp_path / name}.py has no function 'last'; define it as: "
        "def last(candidates, request)."
    )


def test_what_cannot_be_called_is_named_with_its_type(write_module: Write) -> None:
    name = write_module("last = [7]\n")
    assert message_of(f"{name}:last") == (
        f"reuse.pick={name}:last: last is no function but of type list; define it as: def last(candidates, request)."
    )


def test_other_parameters_are_named_with_those_that_are_given(write_module: Write) -> None:
    name = write_module("def last(candidates): return candidates[-1]\n")
    assert message_of(f"{name}:last") == (
        f"reuse.pick={name}:last: last(candidates) cannot take (candidates, request): too many positional arguments; "
        "define it as: def last(candidates, request)."
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "import not_installed_here\n",
            "ModuleNotFoundError: No module named 'not_installed_here'",
        ),
        ("from json import nothing_such\n", "ImportError: cannot import name 'nothing_such'"),
        ("limit = 1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_inside_the_users_module_is_shown_as_theirs_with_its_line(
    write_module: Write, tmp_path: Path, text: str, error: str
) -> None:
    name = write_module(f'"""A module."""\n\n{text}')
    message = message_of(f"{name}:last")
    assert message.startswith(f"reuse.pick={name}:last: importing module '{name}' raised {error}")
    assert message.endswith(f"\n  at {tmp_path / name}.py:3: {text.strip()}")


def test_a_syntax_error_in_the_users_module_is_shown_with_its_file(write_module: Write) -> None:
    name = write_module("def last(:\n")
    assert re.search(
        rf"importing module '{name}' raised SyntaxError: .*\({name}\.py, line 1\)",
        message_of(f"{name}:last"),
    )


def test_what_a_call_raises_is_raised_under_the_options_name(
    write_module: Write, tmp_path: Path
) -> None:
    name = write_module("def last(candidates, request):\n    return {}['x']\n")
    pick = load_user_function("reuse.pick", f"{name}:last", "candidates", "request")
    with pytest.raises(UserFunctionError) as raised:
        pick([], None)
    assert str(raised.value) == (
        f"reuse.pick={name}:last raised KeyError: 'x'\n  at {tmp_path / name}.py:2: return {{}}['x']"
    )
    assert isinstance(raised.value.__cause__, KeyError)

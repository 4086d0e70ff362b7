"""What a row of a prompt file asks and what is right. How rows are read is in row_files.py; what they render to, in
rendering.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.row_files import get_field, read_rows, refuse_broken, show


def read_asked(record: Mapping[str, Any], config: DataConfig, where: str) -> Any:
    """The prompt's field: a string that is not empty, or a list of chat messages."""
    name = config.prompt_field
    asked = get_field(record, name)
    if asked is None and name not in record:
        raise ValueError(
            f"{where}: no field {name!r} (data.prompt_field), only {sorted(record)}; name the "
            "prompt's field."
        )
    if isinstance(asked, str) and asked.strip():
        return asked
    if isinstance(asked, list) and asked and all(_is_message(message) for message in asked):
        return asked
    raise ValueError(
        f"{where}: {name!r} is {show(asked)}; it must be a non-empty string, or a list of "
        'chat messages like {"role": "user", "content": "..."}.'
    )


def read_answer(record: Mapping[str, Any], config: DataConfig, where: str) -> str:
    name = config.answer_field
    answer = get_field(record, name)
    if answer is None and name not in record:
        raise ValueError(
            f"{where}: no answer: field {name!r} (data.answer_field) is missing, there is only "
            f"{sorted(record)}; add the ground truth or name its field."
        )
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"{where}: the answer {name!r} is {show(answer)}; it must be a non-empty string, "
            'such as "42".'
        )
    require_unicode(answer, "answer", where)
    return answer


def require_unicode(text: str, what: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise ValueError(
            f"{where}: the {what} is no valid Unicode text ({error.reason}); mend it."
        ) from error


def digest_prompts(
    path: str | Path,
    config: DataConfig,
    *,
    graded_by: Sequence[str] = ("error",),
    first: int = 0,
    is_ordered: bool = False,
) -> tuple[int, str]:
    """How many different prompts the file holds (of the `first` so many; 0: of all), and a checksum of what they ask
    and what is right. Their order counts where it `is_ordered`; of their other fields only those that they are
    `graded_by` do. Raises ValueError for a file that cannot be read, and for what is no row unless
    `data.broken_rows=skip` leaves it out."""
    fields = config.prompt_field, config.answer_field, *graded_by
    on_broken = refuse_broken if config.broken_rows == "refuse" else _leave_out
    asked = dict.fromkeys(
        json.dumps([get_field(record, name) for name in fields], sort_keys=True)
        for _, record in read_rows(Path(path), on_broken)
    )
    prompts = list(asked)[: first or None]
    content = "\n".join(prompts if is_ordered else sorted(prompts))
    return len(prompts), xxhash.xxh3_128_hexdigest(content.encode("utf-8"))


def _leave_out(problem: str) -> None:
    """Whoever loads the prompts tells of it."""


def list_some(lines: list[str], most: int = 10) -> str:
    """One line each, indented, the first of them by name.

    >>> print(list_some(["a", "b", "c"], most=2))
      a
      b
      and 1 more
    """
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(f"  {line}" for line in [*lines[:most], *more])


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )

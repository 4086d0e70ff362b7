"""What there is to set: every option with its type, its defaults and its docstring, read from the classes of the
sections. `ar3po options` and docs/options.md show it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from megatron_ar3po.config.at_resume import AtResume, read_declarations
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.ranges import declared_ranges
from megatron_ar3po.config.renamed import RENAMED
from megatron_ar3po.config.schema import Config


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option, as a reader wants to see it."""

    name: str  # with its section: "rollout.num_stages"
    type: str  # "int", or the values it takes: "local | global"
    range: str  # of a number, or of those of a list: "at least 0 and below 1"; empty where there are none
    default: Any
    presets: dict[str, Any]  # the default under each algorithm.name, where that sets one
    at_resume: str  # "free", "warn" or "fixed": config/at_resume.py
    doc: str  # paragraphs of one line each


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    name: str
    doc: str
    options: tuple[Option, ...]


def all_sections() -> list[Section]:
    hints = typing.get_type_hints(Config)
    return [_section(field.name, hints[field.name]) for field in dataclasses.fields(Config)]


def find_options(asked: str) -> list[Section]:
    """All sections for "", one for its name; for "section.option" the section with that option alone. Raises ValueError
    with the nearest name for any other."""
    sections = all_sections()
    for section in sections:
        if asked == section.name:
            return [section]
        for option in section.options:
            if asked == option.name:
                return [dataclasses.replace(section, options=(option,))]
    if not asked:
        return sections
    if asked in RENAMED:
        raise ValueError(f"{asked} is called {RENAMED[asked]} now; ask for that.")
    known = [name for s in sections for name in (s.name, *(option.name for option in s.options))]
    (near,) = difflib.get_close_matches(asked, [*known, *RENAMED], n=1, cutoff=0.0)
    raise ValueError(
        f"{asked} is no section and no option; the nearest one is {RENAMED.get(near, near)}."
    )


def field_docstrings(cls: type) -> dict[str, str]:
    """The string under each field of a class, each paragraph on one line; a field without one is not in it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = _paragraphs(below.value.value)
    return found


def as_text(sections: Sequence[Section], *, width: int) -> str:
    """For a terminal of so many columns."""
    return "\n\n".join(line for section in sections for line in _text_of(section, width))


def as_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """One object for each option."""
    return [dataclasses.asdict(option) for section in sections for option in section.options]


def as_markdown() -> str:
    """docs/options.md."""
    lines = [
        "# Options",
        "",
        *textwrap.wrap(_with_links(_ABOUT_THE_PAGE), 120),
        *(line for section in all_sections() for line in _markdown_of(section)),
    ]
    return "\n".join(lines) + "\n"


_ABOUT_THE_PAGE = (
    "All options, as `ar3po options` prints them; this page is the output of `ar3po options --markdown`. An option "
    "stands in a YAML file under its section, or behind the file on the command line as `section.option=value`. "
    "`algorithm.name` sets some defaults; what a file or the command line says goes before them. An option that is "
    "text keeps the text as it stands there (`run.name=007`, `12:30`, `no`); in a file nothing, or null, is empty "
    "text. A number outside of its range, NaN or infinity among them, is refused by name, value and range. What is "
    "fixed at a resume may not change when a run goes on (`run.resume=true`), what is warned of may, with a line in "
    "the log; docs/checkpoints.md says why, and how a fixed one is changed all the same."
)

_AT_RESUME = {"free": "", "warn": "a resume warns of a change", "fixed": "fixed at a resume"}


def _section(name: str, cls: type) -> Section:
    hints, docs = typing.get_type_hints(cls), field_docstrings(cls)
    declared, ranges = read_declarations(cls), declared_ranges(cls)
    options = tuple(
        Option(
            name=f"{name}.{field.name}",
            type=_type_name(hints[field.name]),
            range=str(ranges.get(field.name, "")),
            default=_default_of(field),
            presets={
                preset: values[name][field.name]
                for preset, values in PRESETS.items()
                if field.name in values.get(name, {})
            },
            at_resume=(declared[field.name] or AtResume.FIXED).value,
            doc=docs.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
    )
    return Section(name=name, doc=_paragraphs(cls.__doc__ or ""), options=options)


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _paragraphs(docstring: str) -> str:
    parts = re.split(r"\n\s*\n", docstring.strip())
    return "\n\n".join(" ".join(part.split()) for part in parts)


def _type_name(hint: Any) -> str:
    """
    >>> _type_name(Literal["local", "global"]), _type_name(list[int]), _type_name(dict[str, Any])
    ('local | global', 'list of int', 'options of its own')
    """
    if typing.get_origin(hint) is Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is list:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    if isinstance(hint, types.GenericAlias):
        return "options of its own"
    return str(hint.__name__)


def _show(value: Any) -> str:
    """As in a YAML file.

    >>> [_show(value) for value in (True, "", [], {}, 1e-06, 600.0, "math")]
    ['true', '""', '[]', '{}', '1e-06', '600.0', 'math']
    """
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'


def _values_of(option: Option) -> str:
    return f"{option.type}, {option.range}" if option.range else option.type


def _presets_of(option: Option) -> str:
    """
    >>> made = dict(name="", type="", range="", default=2, at_resume="free", doc="")
    >>> two = Option(presets={"ar3po": 2}, **made)
    >>> _presets_of(two)
    'by algorithm.name: ar3po 2'
    """
    presets = ", ".join(f"{name} {_show(value)}" for name, value in option.presets.items())
    return f"by algorithm.name: {presets}" if presets else ""


def _text_of(section: Section, width: int) -> Iterator[str]:
    yield textwrap.fill(f"{section.name.upper()}  {section.doc}", width)
    for option in section.options:
        yield "\n".join(
            [
                f"  {option.name}: {_values_of(option)} = {_show(option.default)}",
                *_fill(_presets_of(option), width),
                *_fill(_AT_RESUME[option.at_resume], width),
                *(line for part in option.doc.split("\n\n") for line in _fill(part, width)),
            ]
        )


def _fill(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")


def _markdown_of(section: Section) -> Iterator[str]:
    yield from ("", f"## {section.name}", "", *textwrap.wrap(_with_links(section.doc), 120))
    for option in section.options:
        facts = [
            _values_of(option),
            f"default `{_show(option.default)}`",
            _presets_of(option),
            _AT_RESUME[option.at_resume],
        ]
        named = f"**`{option.name}`** ({', '.join(filter(None, facts))})."
        text = " ".join([named, *_with_links(option.doc).split("\n\n")])
        yield from ("", *textwrap.wrap(text, 120))


def _with_links(text: str) -> str:
    """
    >>> _with_links("docs/rollout.md explains.")
    '[rollout.md](rollout.md) explains.'
    """
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)

"""How `ar3po watch` shows a `RunView`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from megatron_ar3po.reporting.run_watch import RunView
from megatron_ar3po.reporting.sparkline import sparkline

_CURVE_WIDTH = 30
_FORMS = {"clip fraction": ".2%", "responses per prompt": ".2f", "response length": ".1f"}


def screen_of(view: RunView, *, marks: str) -> RenderableType:
    parts: list[RenderableType] = [Text(line, overflow="ellipsis") for line in _headline(view)]
    if view.curves:
        parts.append(_curves(view, marks))
    for title, shares in (("groups", view.groups), ("seconds", view.phases)):
        if shares:
            parts.append(Text(f"{title:<10}{_shares(shares)}"))
    parts += [Text(line) for line in view.ranks]
    for server in view.servers:
        said = f": {server.said}" if server.said else ""
        line = f"server {server.name}, last wrote {server.silent_s:.0f} s ago{said}"
        parts.append(Text(line, no_wrap=True, overflow="ellipsis"))
    if view.warnings:
        parts.append(Text("last warnings"))
        parts += [Text(f"  {line}", overflow="fold") for line in view.warnings]
    return Group(*parts)


def _headline(view: RunView) -> Iterator[str]:
    algorithm = f"{view.algorithm}, " if view.algorithm else ""
    yield f"{view.name} ({algorithm}{view.folder})"
    if view.step < 0:
        yield "no step has ended yet"
        return
    line = f"step {view.step}/{view.num_steps}"
    if view.seconds_per_step is not None:
        line += f"  {view.seconds_per_step:.2f} s a step"
    if view.end:
        line += f"  {view.end}"
    elif view.seconds_left is not None:
        line += f"  left {_clock(view.seconds_left)}"
    yield line


def _curves(view: RunView, marks: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for header, justify in (("", "left"), ("now", "right"), ("", "left"), ("lowest", "right")):
        table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("highest", justify="right", no_wrap=True)
    for title, values in view.curves.items():
        form = _FORMS.get(title, ".3f")
        low, high = min(values), max(values)
        curve = sparkline(values, width=_CURVE_WIDTH, marks=marks)
        row = (values[-1], low, high)
        now, lowest, highest = (format(x, form) for x in row)
        table.add_row(title, now, curve, lowest, highest)
    return table


def _shares(shares: Mapping[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

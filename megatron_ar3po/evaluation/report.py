"""The result of an evaluation for people: a table, a figure, and the answers to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_ar3po.evaluation.figures import SetAnswers, rows_of
from megatron_ar3po.evaluation.items import Item

_FIELDS = ("status", "extracted", "tokens", "finish_reason")  # of a response in responses.jsonl


def write_files(
    out: Path, result: Mapping[str, Any], answers: Sequence[SetAnswers], name: str = "responses"
) -> None:
    """The figures, and what was answered, to be read."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for of_set in answers:
            rows = zip(of_set.prompts, rows_of(of_set.prompts), of_set.items, strict=True)
            for prompt, row_id, items in rows:
                row = {
                    "set": of_set.name,
                    "id": row_id,
                    "prompt": prompt.text,
                    "answer": prompt.ground_truth,
                    "responses": [_readable(item) for item in items],
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _readable(item: Item) -> dict[str, Any]:
    return {"text": item.text, **{name: getattr(item, name) for name in _FIELDS}}


def print_result(result: Mapping[str, Any], out: Path) -> None:
    table = Table(title=f"{result['policy']}, {result['seconds']:g} s")
    table.add_column("set")
    for head in ("prompts x n", "avg@n", "95%", "pass@n", "maj@n", "tokens", "truncated"):
        table.add_column(head, justify="right")
    for name, found in result["sets"].items():
        table.add_row(name, *_cells(found))
        if set(found["by_source"]) != {""} and len(found["by_source"]) > 1:
            for source, of_source in found["by_source"].items():
                rate = of_source["pass_at_1"]
                table.add_row(
                    f"  {source or 'no source'}",
                    str(of_source["prompts"]),
                    "none" if rate is None else f"{rate:.3f}",
                )
    console = Console(markup=False, emoji=False)  # sources and paths are nobody's markup
    console.print(table)
    if "against" in result:
        console.print(_difference_table(result))
    for name, found in result["sets"].items():
        verdicts = ", ".join(f"{count} {what}" for what, count in sorted(found["verdicts"].items()))
        sampled = f"temperature {found['temperature']:g}, top_p {found['top_p']:g}"
        console.print(
            f"{name}: {verdicts}; {sampled}; {found['generated']} generated, {found['reused']} reused"
        )
        if found["verifier_errors"]:
            console.print(f"{name}: {found['verifier_errors']} not graded, as the verifier failed")
    console.print(f"files in {out}")


def _cells(found: Mapping[str, Any]) -> list[str]:
    n = found["samples_per_prompt"]
    return [
        f"{found['prompts']} x {n}",
        f"{found['pass_at_1']:.3f}",
        tell_interval(found["pass_at_1_interval"]),
        *(_rate(found[what], n) for what in ("pass_at_k", "maj_at_k")),
        f"{found['length_tokens']:.0f}",
        f"{found['truncated_frac']:.1%}",
    ]


def _rate(by_k: Mapping[int, float], k: int) -> str:
    return f"{by_k[k]:.3f}" if k in by_k else "-"


def tell_interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _difference_table(result: Mapping[str, Any]) -> Table:
    table = Table(title=f"difference from {result['against']['policy']}, paired by prompt")
    for head in ("set", "prompts", "of", "there", "difference", "95%"):
        table.add_column(head, justify="left" if head in ("set", "of") else "right")
    for name, found in result["against"]["differences"].items():
        there = result["against"]["sets"][name]
        for what, one in found.items():
            if what == "prompts":
                continue
            measured = f"{there['pass_at_1']:.3f}" if what == "pass_at_1" else ""
            table.add_row(
                name,
                str(found["prompts"]),
                what.replace("_at_", "@"),
                measured,
                f"{one['difference']:+.3f}",
                tell_interval(one["interval"]),
            )
    return table


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """avg@n of each set with its 95% interval, both policies side by side where there are two."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    policies = {result["policy"]: result["sets"]}
    if "against" in result:
        policies[result["against"]["policy"]] = result["against"]["sets"]
    names = list(result["sets"])
    figure: Any
    figure, panel = pyplot.subplots(
        figsize=(7, 1.2 + 0.5 * len(names) * len(policies)), layout="constrained"
    )
    for number, (policy, sets) in enumerate(policies.items()):
        shift = (number - (len(policies) - 1) / 2) * 0.25
        rates = [sets[name]["pass_at_1"] for name in names]
        ends = [
            sets[name]["pass_at_1_interval"] or [r, r] for name, r in zip(names, rates, strict=True)
        ]
        # Two ways to a mean differ in their last digit, and an interval may have no width.
        spans = [[max(0.0, r - low) for r, (low, _) in zip(rates, ends, strict=True)]]
        spans.append([max(0.0, high - r) for r, (_, high) in zip(rates, ends, strict=True)])
        at = [i + shift for i in range(len(names))]
        panel.errorbar(rates, at, xerr=spans, fmt="o", capsize=3, label=policy)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(-0.6, len(names) - 0.4)
    panel.invert_yaxis()
    panel.set_xlabel("accuracy, mean over all samples, with its 95% interval over prompts")
    panel.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)

"""The last line of a run: what to look at next."""

from __future__ import annotations

from pathlib import Path


def describe_next(
    folder: Path, *, newest_checkpoint: Path | None, model: str, has_held_out: bool
) -> str:
    """Of a run that is done. `newest_checkpoint`: None where it has none. `model`: where its policy began.
    `has_held_out`: it names prompts to evaluate on."""
    report = f"next: ar3po report {folder}"
    if newest_checkpoint is None:
        return report
    data = "" if has_held_out else " --data FILE"
    evaluate = f"ar3po evaluate {folder}{data} --samples 16"
    policy = folder / "hf"
    if policy.is_dir():
        where = f"is {policy}"
    else:
        weights = newest_checkpoint / "model"
        where = f"comes from python tools/convert_checkpoint.py to-hf {weights} OUT --like {model}"
    return f"{report}; {evaluate}; the policy as a Hugging Face folder {where}"

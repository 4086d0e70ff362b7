"""The last line of a run: what to look at next."""

from __future__ import annotations

from pathlib import Path


def describe_next(folder: Path, *, has_checkpoint: bool, has_held_out: bool) -> str:
    """Of a run that is done. `has_held_out`: it names prompts to evaluate on."""
    report = f"next: ar3po report {folder}"
    if not has_checkpoint:
        return report
    data = "" if has_held_out else " --data FILE"
    evaluate = f"ar3po evaluate {folder}{data} --samples 16"
    policy = f"ar3po export {folder} --out DIR makes the policy a Hugging Face folder"
    if (folder / "hf").is_dir():
        policy = f"the policy as a Hugging Face folder is {folder / 'hf'}"
    return f"{report}; {evaluate}; {policy}"

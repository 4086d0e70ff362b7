"""Writes data/dapo_math_en.jsonl (training, about 14 thousand prompts) and data/math500.jsonl (held out).

    pip install datasets
    python tools/prepare_dapo_math.py --out data

Needs the network, or the two data sets in Hugging Face's cache. A line is {"prompt": ..., "answer": ...}; problems that
stand in both sets are left out of training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def records(
    rows: Iterable[Mapping[str, str]], problem: str, answer: str, held_out: set[str]
) -> Iterator[dict[str, str]]:
    """One record for each problem, the first time it is met; without an answer it is of no use."""
    seen = set(held_out)
    for row in rows:
        text = row[problem].strip()
        if row[answer].strip() and text not in seen:
            seen.add(text)
            yield {"prompt": f"{text}\n\n{INSTRUCTION}", "answer": row[answer].strip()}


def write(path: Path, lines: Iterable[dict[str, str]]) -> int:
    texts = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(texts), encoding="utf-8")
    return len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"))
    out = parser.parse_args().out
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit("this needs Hugging Face's datasets: pip install datasets") from None

    math500 = list(load_dataset("HuggingFaceH4/MATH-500", split="test"))
    dapo = load_dataset("open-r1/DAPO-Math-17k-Processed", "en", split="train")
    held_out = {row["problem"].strip() for row in math500}
    train = write(out / "dapo_math_en.jsonl", records(dapo, "prompt", "solution", held_out))
    test = write(out / "math500.jsonl", records(math500, "problem", "answer", set()))
    print(f"{train} training prompts and {test} held-out prompts in {out}/")


if __name__ == "__main__":
    main()

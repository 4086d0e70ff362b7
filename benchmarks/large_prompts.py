"""A start with a million prompts: how long it takes to read them, the first time and the next, and what they hold.

    python benchmarks/large_prompts.py                       # a million prompts
    python benchmarks/large_prompts.py --prompts 100000      # a try

Each start is a process of its own that does what a rank does before its servers start: the facts of the data, its
prompts, the order of an epoch, a step's batch. Memory is what the process holds beyond the pages of mapped files
(RssAnon), before the prompts and after, by row; `cpu_s` are the process's own seconds, beside which a busy machine's
wall time says little; `peak` is the largest that it was on the way (VmHWM, mapped pages
included).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_ar3po.wiring.prompt_caching import LARGE_BYTES  # noqa: E402


def write_prompts(path: Path, count: int) -> None:
    """Sums of the tiny task's characters, 40 to 80 characters long, each another one; a field pads few of them to a
    large file."""
    draw = random.Random(0)
    padding = "x" * max(0, LARGE_BYTES // count - 64)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            terms = [number, *(draw.randrange(1000) for _ in range(draw.randrange(9, 18)))]
            prompt = "+".join(map(str, terms)) + "="
            row = {"prompt": prompt, "answer": str(sum(terms)), "source": "sums", "note": padding}
            file.write(json.dumps(row) + "\n")


def memory_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def start(words: list[str]) -> None:
    """In a process of its own."""
    from megatron_ar3po.config.load import load_config
    from megatron_ar3po.data.tokenizer import load_tokenizer
    from megatron_ar3po.wiring.prompt_reading import read_here
    from megatron_ar3po.wiring.prompts_and_verifier import make_prompt_source
    from megatron_ar3po.wiring.run_facts import facts_of_data

    config = load_config([], words)
    tokenizer = load_tokenizer(config.model.path)
    before = memory_kib("RssAnon")
    parts, began = {}, time.monotonic()
    cpu_began = time.process_time()

    def took(name: str) -> None:
        nonlocal began
        parts[name], began = round(time.monotonic() - began, 2), time.monotonic()

    facts = [fact.value for fact in facts_of_data(config)]
    took("facts")
    prompts = read_here(config, tokenizer, datetime(2026, 1, 2), lambda task: task())
    took("prompts")
    source = make_prompt_source(config, prompts)
    source.start_step()
    batch = source.next_batch(256)
    took("order and batch")
    held = memory_kib("RssAnon") - before
    result = {
        **parts,
        "all_s": round(sum(parts.values()), 2),
        "cpu_s": round(time.process_time() - cpu_began, 2),
        "bytes_a_row": round(held * 1024 / len(source), 1),
        "peak_mib": memory_kib("VmHWM") // 1024,
        "prompts_read": len(source),
        "check": [*facts, batch[0].prompt.prompt_id, source.cursor["fingerprint"]],
    }
    print(json.dumps(result))


def run_start(words: list[str]) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, __file__, "--start", json.dumps(words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=3600,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "large_prompts")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "tiny_sum" / "model")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start(json.loads(arguments.start))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data, cache = arguments.folder / "prompts.jsonl", arguments.folder / "cache"
    for path in cache.glob("*"):
        path.unlink()
    write_prompts(data, arguments.prompts)
    words = [
        f"model.path={arguments.model}",
        f"data.path={data}",
        f"data.cache_dir={cache}",
        "data.max_prompt_tokens=128",
    ]
    print(f"{arguments.prompts} prompts, {data.stat().st_size / 2**20:.0f} MiB")
    first = run_start(words)
    next_one = run_start(words)
    assert first.pop("check") == next_one.pop("check"), "the two starts read unlike prompts"
    print(f"first start  {json.dumps(first)}")
    print(f"next start   {json.dumps(next_one)}")


if __name__ == "__main__":
    main()

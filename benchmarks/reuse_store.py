"""The reuse store at scale: opening, borrowing, depositing, bytes on disk, memory; beside LMDB and a folder of pickles.

    python benchmarks/reuse_store.py                              20,000 responses of 1,000 tokens, about a minute
    python benchmarks/reuse_store.py --responses 1000000 --build-fast    one large shard, about 9 GB of disk
    python benchmarks/reuse_store.py --responses 100000 --peers   the comparison (needs the package lmdb)

A step deposits 2,000 responses of 500 prompts; in every pass over the prompts they come in another order, as a trainer
shuffles them, so the prompts of a step lie anywhere in the store. Token ids are drawn from a Zipf distribution over
150,000 words, which is about as uneven as text; log-probs are minus exponentials. Every store runs in a process of its
own; its memory is what the process takes beyond what it took before the store was opened. A deposit is compared with
one plain write and fsync of as many bytes as it added to the disk, done right after it on the same disk; both figures
are medians.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.types import Prompt, Response, ScoredResponse, Verdict

PER_PROMPT = 8
PER_STEP = 2000
NUM_BORROWS = 5000
NUM_MEASURED_DEPOSITS = 15


@dataclass(frozen=True, kw_only=True)
class Sizes:
    num_responses: int
    num_tokens: int
    folder: Path
    build_fast: bool = False
    last_step: int = 0  # that the store has seen, where it was measured before

    @property
    def num_steps(self) -> int:
        return max(1, self.num_responses // PER_STEP)

    @property
    def num_prompts(self) -> int:
        return max(1, self.num_responses // PER_PROMPT)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one training step deposits."""

    number: int
    responses: list[ScoredResponse]
    prompts: dict[str, Prompt]


class Candidate(Protocol):
    """A store under test: opened by its constructor."""

    def deposit(self, step: Step) -> None: ...

    def borrow(self, prompt_id: str, step: int) -> object: ...

    def build_fast(self) -> None:
        """No syncs while the benchmark fills the store; it is opened anew, with them, before it is measured."""
        ...

    def close(self) -> None: ...


class Ours:
    def __init__(self, folder: Path) -> None:
        self._store = ReuseStore.open(
            folder,
            dp_rank=0,
            dp_size=1,
            config=ReuseConfig(max_responses_per_prompt=2 * PER_PROMPT),
            run_seed=0,
            fingerprint=Fingerprint(run="benchmark", model="none", tokenizer="none"),
        )

    def build_fast(self) -> None:
        self._store._connection.execute("PRAGMA synchronous = OFF")

    def deposit(self, step: Step) -> None:
        num_new = self._store.deposit(step.responses, prompts=step.prompts, step=step.number)
        assert num_new == len(step.responses)

    def borrow(self, prompt_id: str, step: int) -> object:
        return self._store.borrow(prompt_id, step=step)

    def close(self) -> None:
        self._store.close()


class Lmdb:
    """One key per response, (prompt, response), a pickle as its value; synced at every deposit."""

    def __init__(self, folder: Path) -> None:
        import lmdb  # pyright: ignore[reportMissingImports]

        folder.mkdir(parents=True, exist_ok=True)
        self._environment: Any = lmdb.open(str(folder), map_size=1 << 40)

    def build_fast(self) -> None:
        """One sync a step is little beside the rest."""

    def deposit(self, step: Step) -> None:
        with self._environment.begin(write=True) as transaction:
            for scored in step.responses:
                key = f"{scored.response.prompt_id}/{scored.response.response_id}".encode()
                transaction.put(key, pickle.dumps(scored, protocol=5))

    def borrow(self, prompt_id: str, step: int) -> object:
        prefix = prompt_id.encode()
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            keys = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(values=False):
                    if not key.startswith(prefix):
                        break
                    keys.append(key)
            return pickle.loads(transaction.get(random.choice(keys)))

    def close(self) -> None:
        self._environment.close()


class Pickles:
    """One file per prompt with a list of its responses, rewritten at every deposit, synced and renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_to_sync = True
        folder.mkdir(parents=True, exist_ok=True)

    def build_fast(self) -> None:
        self._has_to_sync = False

    def deposit(self, step: Step) -> None:
        by_prompt: dict[str, list[ScoredResponse]] = {}
        for scored in step.responses:
            by_prompt.setdefault(scored.response.prompt_id, []).append(scored)
        for prompt_id, new in by_prompt.items():
            path = self._path(prompt_id)
            path.parent.mkdir(exist_ok=True)
            held = pickle.loads(path.read_bytes()) if path.exists() else []
            with path.with_suffix(".new").open("wb") as file:
                pickle.dump(held + new, file, protocol=5)
                if self._has_to_sync:
                    file.flush()
                    os.fsync(file.fileno())
            path.with_suffix(".new").rename(path)

    def borrow(self, prompt_id: str, step: int) -> object:
        return random.choice(pickle.loads(self._path(prompt_id).read_bytes()))

    def close(self) -> None:
        pass

    def _path(self, prompt_id: str) -> Path:
        return self._folder / prompt_id[:2] / f"{prompt_id}.pickle"


CANDIDATES: dict[str, Callable[[Path], Candidate]] = {
    "reuse store": Ours,
    "LMDB": Lmdb,
    "pickle per prompt": Pickles,
}


def prompt_id_of(number: int) -> str:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).hexdigest()


def prompt_of(prompt_id: str) -> Prompt:
    tokens = tuple(
        np.frombuffer(bytes.fromhex(prompt_id) * 16, dtype=np.uint16).tolist()
    )  # 128 tokens
    return Prompt(prompt_id=prompt_id, token_ids=tokens, ground_truth="42", text="x" * 400)


@cache
def arrays_of(count: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and log-probs [count, num_tokens], drawn once: no store here looks for likeness."""
    rng = np.random.default_rng(0)
    tokens = (rng.zipf(1.2, (count, num_tokens)) % 150_000).astype(np.int32)
    return tokens, -rng.exponential(0.5, (count, num_tokens)).astype(np.float32)


@cache
def shuffle(num_prompts: int, number: int) -> list[int]:
    """The order of the prompts in one pass over them."""
    return np.random.default_rng(number).permutation(num_prompts).tolist()


def make_step(sizes: Sizes, step: int) -> Step:
    """2,000 responses of 500 prompts, four each: every prompt comes by twice in `num_steps` steps."""
    count = min(PER_STEP, sizes.num_responses)
    tokens, logprobs = arrays_of(count, sizes.num_tokens)
    first = (step - 1) * (count // 4)

    def prompt_at(index: int) -> str:
        number, index = divmod(index, sizes.num_prompts)
        return prompt_id_of(shuffle(sizes.num_prompts, number)[index])

    responses = [
        ScoredResponse(
            response=Response(
                response_id=f"step{step:06d}-{i:05d}",
                prompt_id=prompt_at(first + i // 4),
                token_ids=tokens[i],
                logprobs=logprobs[i],
                finish_reason="stop",
                policy_version=step,
                step=step,
                stage=1 + i % 2,
                index=i % 4,
                seed=i,
                server="http://127.0.0.1:30000",
                elapsed_s=1.25,
            ),
            verdict=Verdict(reward=1.0, status="correct", extracted="42", reason="42 equals 42"),
        )
        for i in range(count)
    ]
    ids = {scored.response.prompt_id for scored in responses}
    return Step(number=step, responses=responses, prompts={name: prompt_of(name) for name in ids})


def plain_write(folder: Path, num_bytes: int) -> float:
    """Seconds of one write and fsync."""
    content, path = os.urandom(num_bytes), folder / "plain"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    elapsed = time.perf_counter() - started
    path.unlink()
    return elapsed


def bytes_of(folder: Path) -> int:
    """On disk, in whole blocks: a folder of small files pays for them, a sparse file does not."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def fill(
    make: Callable[[Path], Candidate], sizes: Sizes, folder: Path
) -> Iterator[tuple[str, float]]:
    store = make(folder)
    if sizes.build_fast:
        store.build_fast()
    for step in range(1, sizes.num_steps + 1):
        store.deposit(make_step(sizes, step))
        if step % 50 == 0:
            print(f"{folder.name}: {step} of {sizes.num_steps} steps", file=sys.stderr, flush=True)
    store.close()
    yield "num_steps", sizes.num_steps


def use(
    make: Callable[[Path], Candidate], sizes: Sizes, folder: Path
) -> Iterator[tuple[str, float]]:
    step = max(sizes.num_steps, sizes.last_step) + 1
    later_steps = [make_step(sizes, step + 2 + i) for i in range(NUM_MEASURED_DEPOSITS)]
    gc.collect()
    memory_before = resident_mib()
    started = time.perf_counter()
    store = make(folder)
    yield "open_ms", 1e3 * (time.perf_counter() - started)

    rng = random.Random(0)
    numbers = rng.sample(range(sizes.num_prompts), min(NUM_BORROWS, sizes.num_prompts))
    asked = [prompt_id_of(number) for number in numbers]
    for prompt_id in asked:  # warm
        store.borrow(prompt_id, step)
    times = []
    for prompt_id in asked:
        started = time.perf_counter()
        assert store.borrow(prompt_id, step + 1) is not None
        times.append(1e6 * (time.perf_counter() - started))
    yield "borrow_p50_us", statistics.median(times)
    yield "borrow_p99_us", statistics.quantiles(times, n=100)[98]

    deposits, processor, plain = [], [], []
    for later_step in later_steps:
        before = bytes_of(folder)
        started, busy = time.perf_counter(), time.process_time()
        store.deposit(later_step)
        processor.append(1e3 * (time.process_time() - busy))
        deposits.append(1e3 * (time.perf_counter() - started))
        plain.append(1e3 * plain_write(folder, bytes_of(folder) - before))
    yield "memory_mib", resident_mib() - memory_before
    yield "deposit_ms", statistics.median(deposits)
    yield "deposit_cpu_ms", statistics.median(processor)
    yield "plain_write_ms", statistics.median(plain)
    yield "deposit_ratio", statistics.median(deposits) / statistics.median(plain)
    store.close()


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def in_own_process(
    work: Callable[..., Iterator[tuple[str, float]]], *arguments: object
) -> dict[str, float]:
    def child() -> None:
        sender.send(dict(work(*arguments)))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process: AbstractContextManager | Any = context.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"the measuring process ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def measure(name: str, sizes: Sizes, *, is_filled: bool, only_fill: bool) -> dict[str, float]:
    folder = sizes.folder / name.replace(" ", "-")
    if not is_filled:
        in_own_process(fill, CANDIDATES[name], sizes, folder)
    if only_fill:
        return {}
    filled = bytes_of(folder)
    raw = 8 * sizes.num_tokens * min(PER_STEP, sizes.num_responses) * sizes.num_steps
    return {
        **in_own_process(use, CANDIDATES[name], sizes, folder),
        "disk_ratio": filled / raw,
    }


COLUMNS = {
    "open_ms": "open, ms",
    "borrow_p50_us": "borrow p50, us",
    "borrow_p99_us": "borrow p99, us",
    "deposit_ms": "deposit, ms",
    "deposit_cpu_ms": "of it CPU, ms",
    "plain_write_ms": "plain write + fsync, ms",
    "deposit_ratio": "deposit / plain",
    "disk_ratio": "disk / raw bytes",
    "memory_mib": "memory, MiB",
}


def markdown_table(results: dict[str, dict[str, float]]) -> str:
    lines = [f"| store | {' | '.join(COLUMNS.values())} |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for name, values in results.items():
        cells = [f"{values[c]:.2f}" if "ratio" in c else f"{values[c]:,.0f}" for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=1_000, help="of each response")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs"), help="on the disk to be measured"
    )
    parser.add_argument("--peers", action="store_true", help="also LMDB and a folder of pickles")
    parser.add_argument(
        "--build-fast",
        action="store_true",
        help="fill the stores without syncs, then measure with them",
    )
    parser.add_argument("--fill-only", action="store_true", help="fill, keep the folder, say where")
    parser.add_argument("--filled", type=Path, help="measure what an earlier --fill-only left here")
    parser.add_argument(
        "--last-step", type=int, default=0, help="with --filled: that an earlier measurement made"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = arguments.filled or Path(
        tempfile.mkdtemp(prefix="reuse-benchmark-", dir=arguments.folder)
    )
    sizes = Sizes(
        num_responses=arguments.responses,
        num_tokens=arguments.tokens,
        folder=folder,
        build_fast=arguments.build_fast,
        last_step=arguments.last_step,
    )
    try:
        names = list(CANDIDATES) if arguments.peers else ["reuse store"]
        results = {
            name: measure(
                name,
                sizes,
                is_filled=arguments.filled is not None,
                only_fill=arguments.fill_only,
            )
            for name in names
        }
    finally:
        if not (arguments.fill_only or arguments.filled):
            shutil.rmtree(folder)
    if arguments.fill_only:
        print(f"measure with --filled {folder}, then delete it")
        return
    if arguments.json:
        print(json.dumps(results))
        return
    load = os.getloadavg()[0]
    print(
        f"{arguments.responses:,} responses of {arguments.tokens:,} tokens, {os.cpu_count()} cores, load {load:.1f}\n"
    )
    print(markdown_table(results))


if __name__ == "__main__":
    main()

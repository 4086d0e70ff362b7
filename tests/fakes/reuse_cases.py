"""Prompts, responses and stores for the tests of the reuse room, and an honest copy of a store's contents."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.reuse.database import Fingerprint
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.types import Prompt, Response, ScoredResponse, Verdict

FINGERPRINT = Fingerprint(run="tiny", model="qwen2 2 layers", tokenizer="abc")


def make_prompt(number: int) -> Prompt:
    """Prompt ids are 16 hex digits and count up, so that prompt n belongs to rank n modulo the DP size."""
    return Prompt(
        prompt_id=f"{number:016x}{hashlib.sha256(bytes([number % 256])).hexdigest()[:8]}",
        token_ids=(1, 70_000, number % 1000),
        ground_truth=str(number),
        text=f"What is {number}?",
        source="test",
        metadata={"level": 3},
    )


def make_response(
    prompt: Prompt, step: int, index: int = 0, *, num_tokens: int = 5, status: str = "correct"
) -> ScoredResponse:
    rng = np.random.default_rng([int(prompt.prompt_id[:16], 16), step, index])
    response = Response(
        response_id=f"s{step}-p{int(prompt.prompt_id[:16], 16)}-i{index}",
        prompt_id=prompt.prompt_id,
        token_ids=rng.integers(0, 150_000, num_tokens).astype(np.int32),
        logprobs=-rng.random(num_tokens).astype(np.float32),
        finish_reason="stop",
        policy_version=step - 1,
        step=step,
        stage=1 + index % 2,
        index=index,
        seed=1 << 40,
        server="http://127.0.0.1:1",
        num_cached_tokens=2,
        elapsed_s=0.25,
    )
    verdict = Verdict(
        reward=float(status == "correct"),
        status=status,
        extracted="7",
        reason="7 = 7",
        elapsed_s=0.1,
    )  # type: ignore[arg-type]
    return ScoredResponse(response=response, verdict=verdict)


def open_store(
    folder: Path, *, dp_rank: int = 0, dp_size: int = 1, run_seed: int = 0, **config: Any
) -> ReuseStore:
    return ReuseStore.open(
        folder,
        dp_rank=dp_rank,
        dp_size=dp_size,
        config=ReuseConfig(**config),
        run_seed=run_seed,
        fingerprint=FINGERPRINT,
        sampler={"temperature": 1.0, "top_p": 1.0},
    )


def deposit(store: ReuseStore, responses: Sequence[ScoredResponse], step: int) -> int:
    prompts = [make_prompt(int(r.response.prompt_id[:16], 16)) for r in responses]
    return store.deposit(responses, prompts={p.prompt_id: p for p in prompts}, step=step)


def assert_same_response(borrowed: ScoredResponse, deposited: ScoredResponse) -> None:
    assert borrowed.origin == "reused"
    assert borrowed.verdict == deposited.verdict
    assert (
        borrowed.response.token_ids.dtype == np.int32
        and borrowed.response.logprobs.dtype == np.float32
    )
    assert borrowed.response.token_ids.tolist() == deposited.response.token_ids.tolist()
    assert borrowed.response.logprobs.tobytes() == deposited.response.logprobs.tobytes()
    plain = {"token_ids": np.zeros(0), "logprobs": np.zeros(0)}
    for name in borrowed.response.__dataclass_fields__:
        if name not in plain:
            assert getattr(borrowed.response, name) == getattr(deposited.response, name), name


def contents(*shards: Path) -> dict[str, Any]:
    """What stores hold, told without ids of rows: {response_id: (step, evicted_step, loans, crc of its bytes)}."""
    found: dict[str, Any] = {}
    for shard in shards:
        connection = sqlite3.connect(f"file:{shard}?mode=ro", uri=True)
        rows = connection.execute(
            "SELECT a.response_id, r.step, r.evicted_step, r.id, p.crc FROM responses r "
            "LEFT JOIN arrivals a USING (id) LEFT JOIN payloads p USING (id)"
        ).fetchall()
        for response_id, step, evicted_step, row, crc in rows:
            loans = connection.execute(
                "SELECT step, position, option FROM loans WHERE response = ? ORDER BY step", (row,)
            ).fetchall()
            assert response_id not in found, f"{response_id} is stored twice"
            found[response_id] = (step, evicted_step, tuple(loans), crc)
        connection.close()
    return found


def alive(*shards: Path) -> set[str]:
    return {
        response_id
        for response_id, (_, evicted_step, *_) in contents(*shards).items()
        if evicted_step is None
    }


def as_reused(scored: ScoredResponse) -> ScoredResponse:
    return replace(scored, origin="reused")

"""Responses and prompts as rows of a shard: a readable JSON part, a binary part, a checksum over both.

The binary part of a response of L tokens is

    width (1 byte) | low 16 bits of every token id (L x 2) | its high bits (L x (width - 2)) | log-probs (L x float32)

all little endian, with width 2, 3 or 4, the smallest that holds every token id beside it. In two planes rather
than token by token, tokens are packed at the speed of memory. Log-probs are kept exactly:
`reuse.option=stored` trains on them. Nothing is compressed: log-probs hardly shrink, and compressing would take most of
a deposit's time (docs/reuse_store.md has the figures).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from megatron_ar3po.response_json import provenance_json, verdict_json
from megatron_ar3po.types import Prompt, Response, ScoredResponse, Verdict

_AT_A_TIME = 32  # responses whose arrays are converted together
_NOT_OF_THE_RESPONSE = ("num_tokens", "verdict", "session", "deposit_step")


class DamagedRowError(ValueError):
    """A row whose bytes do not match its checksum, or do not decode."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """What a table holds of one value: `details` is JSON in UTF-8, `crc` covers `details` and `data`."""

    details: bytes
    data: bytes
    crc: int

    @property
    def num_bytes(self) -> int:
        return len(self.details) + len(self.data)

    def read_fields(self) -> dict[str, Any]:
        """`details` as a dictionary, after the checksum of the whole row."""
        if checksum(self.details, self.data) != self.crc:
            raise DamagedRowError(
                "its bytes do not match their checksum: they changed after they were written"
            )
        return orjson.loads(self.details)


def read_payload(connection: sqlite3.Connection, row: int) -> EncodedRow | None:
    """What table `payloads` holds of the response in `row`; None where it is gone."""
    found = connection.execute(
        "SELECT CAST(details AS BLOB), data, crc FROM payloads WHERE id = ?", (row,)
    ).fetchone()
    return None if found is None else EncodedRow(*found)


def checksum(details: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(details))


def encode_responses(
    responses: Sequence[ScoredResponse], *, session: int, deposit_step: int
) -> Iterator[EncodedRow]:
    """One row per response. Their arrays are converted some at a time: few calls, and what they work on stays in the
    processor's cache."""
    for first in range(0, len(responses), _AT_A_TIME):
        yield from _encode_some(
            responses[first : first + _AT_A_TIME], session=session, deposit_step=deposit_step
        )


def _encode_some(
    responses: Sequence[ScoredResponse], *, session: int, deposit_step: int
) -> Iterator[EncodedRow]:
    logprobs = _bytes_of(_join_logprobs([scored.response for scored in responses]))
    width, low, high = _planes(np.concatenate([s.response.token_ids for s in responses]))
    header, extra, start = bytes([width]), width - 2, 0
    for scored in responses:
        end = start + scored.response.num_tokens
        data = b"".join(
            (
                header,
                low[2 * start : 2 * end],
                high[extra * start : extra * end],
                logprobs[4 * start : 4 * end],
            )
        )
        start = end
        details = _details(scored, session=session, deposit_step=deposit_step)
        yield EncodedRow(details, data, checksum(details, data))


def _join_logprobs(responses: Sequence[Response]) -> np.ndarray:
    """[sum of L] float32. Refuses a response without one finite log-prob for every token."""
    joined = np.concatenate([response.logprobs for response in responses]).astype("<f4", copy=False)
    if np.isfinite(joined).all() and all(len(r.logprobs) == r.num_tokens for r in responses):
        return joined
    for response in responses:
        num_bad = int((~np.isfinite(np.asarray(response.logprobs, dtype="<f4"))).sum())
        if num_bad or len(response.logprobs) != response.num_tokens:
            break
    raise ValueError(
        f"response {response.response_id} has {response.num_tokens} tokens and {len(response.logprobs)} log-probs, "
        f"{num_bad} of them not finite; every sampled token needs its log-prob."
    )


def _details(scored: ScoredResponse, *, session: int, deposit_step: int) -> bytes:
    return orjson.dumps(
        {
            "response_id": scored.response.response_id,
            "prompt_id": scored.response.prompt_id,
            "num_tokens": scored.response.num_tokens,
            **provenance_json(scored.response),
            "verdict": verdict_json(scored.verdict),
            "session": session,
            "deposit_step": deposit_step,
        }
    )


def decode_response(row: EncodedRow) -> ScoredResponse:
    """The response as it was deposited, with origin 'reused'."""
    fields = row.read_fields()
    try:
        tokens = unpack_tokens(row.data, fields["num_tokens"])
        logprobs = np.frombuffer(row.data[-4 * len(tokens) :] if len(tokens) else b"", dtype="<f4")
        verdict = Verdict(**fields["verdict"])
        response = Response(
            token_ids=tokens,
            logprobs=logprobs.astype(np.float32),
            **{k: v for k, v in fields.items() if k not in _NOT_OF_THE_RESPONSE},
        )
    except (KeyError, TypeError) as error:
        raise DamagedRowError(f"it does not decode: {error!r}") from error
    return ScoredResponse(response=response, verdict=verdict, origin="reused")


def encode_prompt(prompt: Prompt) -> EncodedRow:
    details = orjson.dumps(
        {
            "prompt_id": prompt.prompt_id,
            "num_tokens": len(prompt.token_ids),
            "ground_truth": prompt.ground_truth,
            "text": prompt.text,
            "source": prompt.source,
            "metadata": dict(prompt.metadata),
        }
    )
    data = pack_tokens(np.asarray(prompt.token_ids, dtype=np.int64))
    return EncodedRow(details, data, checksum(details, data))


def decode_prompt(row: EncodedRow) -> Prompt:
    fields = row.read_fields()
    try:
        tokens = unpack_tokens(row.data, fields.pop("num_tokens"))
        return Prompt(token_ids=tuple(tokens.tolist()), **fields)
    except (KeyError, TypeError) as error:
        raise DamagedRowError(f"it does not decode: {error!r}") from error


def pack_tokens(token_ids: np.ndarray) -> bytes:
    width, low, high = _planes(token_ids)
    return b"".join((bytes([width]), low, high))


def _planes(token_ids: np.ndarray) -> tuple[int, memoryview, memoryview]:
    """(bytes per token, low 16 bits of each, what is above them)"""
    ids = np.ascontiguousarray(token_ids, dtype="<u4")
    largest = int(ids.max(initial=0))
    width, kind = (
        (2, "<u2") if largest < 1 << 16 else (3, "u1") if largest < 1 << 24 else (4, "<u2")
    )
    high = (ids >> 16).astype(kind) if width > 2 else np.zeros(0, np.uint8)
    return width, _bytes_of(ids.astype("<u2")), _bytes_of(high)


def _bytes_of(array: np.ndarray) -> memoryview:
    """Its memory, not a copy."""
    return np.ascontiguousarray(array).view(np.uint8).data


def unpack_tokens(data: bytes, num_tokens: int) -> np.ndarray:
    """[L] int32"""
    if num_tokens == 0:
        return np.zeros(0, dtype=np.int32)
    width = data[0]
    if width not in (2, 3, 4):
        raise DamagedRowError(f"token ids of {width} bytes each: no such format.")
    tokens = np.frombuffer(data, dtype="<u2", offset=1, count=num_tokens).astype(np.int32)
    if width > 2:
        kind = np.dtype("u1" if width == 3 else "<u2")
        high = np.frombuffer(data, dtype=kind, offset=1 + 2 * num_tokens, count=num_tokens)
        tokens |= high.astype(np.int32) << 16
    return tokens

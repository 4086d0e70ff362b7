"""A finished response as one line of JSON that says itself whether it is whole.

    {"settings": "…", "policy": "…", "grading": "…", "response_id": "s17.p3.1.0", …, "data": "…", "xxh3": "…"}

`data` holds the L token ids (int32), then the log-probs (float32), little endian, in base64: their bits are kept.
`xxh3` is the checksum of the line before it. A line that was cut off, or changed after it was written, raises
`DamagedRowError`; it costs nothing but itself.

`settings`, `policy` and `grading` say what a response was drawn with, by which policy, and graded with: digests that
`ResponseLog` compares.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash

from megatron_ar3po.response_json import provenance_json, verdict_json
from megatron_ar3po.types import Response, ScoredResponse, Verdict
from megatron_ar3po.usage import Retries

_BEFORE_DATA = b', "data": "'
_BEFORE_CHECKSUM = b', "xxh3": "'
_CHECKSUM_CHARS = 16
_TAIL_BYTES = len(_BEFORE_CHECKSUM) + _CHECKSUM_CHARS + len(b'"}')


class DamagedRowError(ValueError):
    """The line does not hold what was written."""


class Origin(NamedTuple):
    """Where a row's response comes from, as digests."""

    settings: str  # of the sampling: seed, model, temperature, limits
    policy: str  # what the policy that drew it was trained on
    grading: str  # of the verifier and the rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedResponse:
    """A row that is whole."""

    origin: Origin
    scored: ScoredResponse


def encode_row(scored: ScoredResponse, origin: Origin) -> bytes:
    """One line, with its end. A verdict is kept exactly: JSON of this module knows NaN and every text."""
    response = scored.response
    token_ids = np.asarray(response.token_ids, dtype="<i4").tobytes()
    logprobs = np.asarray(response.logprobs, dtype="<f4").tobytes()
    fields = {
        **origin._asdict(),
        "response_id": response.response_id,
        "prompt_id": response.prompt_id,
        "num_tokens": response.num_tokens,
        **provenance_json(response),
        "was_begun": response.was_begun,
        "retries": asdict(response.retries),
        "verdict": verdict_json(scored.verdict),
    }
    head = json.dumps(fields)[:-1].encode()  # ASCII: whatever a verifier says is on one line
    body = b'%s%s%s"' % (head, _BEFORE_DATA, b64encode(token_ids + logprobs))
    return b'%s%s%s"}\n' % (body, _BEFORE_CHECKSUM, _checksum(body))


def read_fields(line: bytes) -> tuple[dict[str, Any], bytes]:
    """(all but the arrays, the arrays in base64) of a line without its end. Raises `DamagedRowError`."""
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if tail != b'%s%s"}' % (_BEFORE_CHECKSUM, _checksum(body)):
        raise DamagedRowError("its bytes do not match their checksum")
    head, _, data = body[:-1].rpartition(_BEFORE_DATA)  # there are no quotes in base64
    try:
        return json.loads(head + b"}"), data
    except ValueError as error:
        raise DamagedRowError(f"it does not decode: {error!r}") from error


def decode_row(line: bytes) -> LoggedResponse:
    """Of a line without its end. Raises `DamagedRowError`."""
    fields, encoded = read_fields(line)
    try:
        origin = Origin(**{name: fields.pop(name) for name in Origin._fields})
        verdict = Verdict(**fields.pop("verdict"))
        num_tokens, data = fields.pop("num_tokens"), b64decode(encoded)
        fields["retries"] = Retries(**fields["retries"])
        response = Response(
            token_ids=np.frombuffer(data, dtype="<i4", count=num_tokens).astype(np.int32),
            logprobs=np.frombuffer(data, dtype="<f4", offset=4 * num_tokens).astype(np.float32),
            **fields,
        )
    except (KeyError, TypeError, ValueError) as error:  # written by another version
        raise DamagedRowError(f"it does not decode: {error!r}") from error
    return LoggedResponse(origin=origin, scored=ScoredResponse(response=response, verdict=verdict))


def _checksum(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode()

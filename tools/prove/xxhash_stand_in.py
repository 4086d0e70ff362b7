"""Stands in for xxhash where it is not installed, so that nothing but torch, transformers and triton must be: what a
checkpoint's files hold is summed up by another function. For the checks of tools/prove_gpu.py alone; a checkpoint that
was written with it is not readable by the package."""

from __future__ import annotations

import functools
import hashlib

xxh3_128 = functools.partial(hashlib.blake2b, digest_size=16)
xxh3_64 = functools.partial(hashlib.blake2b, digest_size=8)


def xxh3_128_hexdigest(data: bytes) -> str:
    return xxh3_128(data).hexdigest()


def xxh3_64_hexdigest(data: bytes) -> str:
    return xxh3_64(data).hexdigest()

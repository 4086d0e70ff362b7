import torch

from megatron_ar3po.platform.sglang_cpu import murmur_hash32

MASK = 0xFFFFFFFF


def reference(seed: int, position: int, column: int) -> int:
    """MurmurHash3 x86-32 over four little-endian words, in plain integers."""
    state = 0
    for word in (seed & MASK, seed >> 32 & MASK, position, column):
        word = word * 0xCC9E2D51 & MASK
        word = (word << 15 | word >> 17) & MASK
        state ^= word * 0x1B873593 & MASK
        state = (state << 13 | state >> 19) & MASK
        state = (state * 5 + 0xE6546B64) & MASK
    state ^= 16
    state = (state ^ state >> 16) * 0x85EBCA6B & MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & MASK
    return state ^ state >> 16


def test_murmur_hash_equals_its_definition():
    seeds = [0, 1, 42, 2**31 - 1, 2**32, 2**40 + 12345, 2**62 + 7]
    positions = [0, 1, 2, 77, 2047, 99999, 2**31 - 1]
    columns = [0, 1, 31, 255, 151_935]
    hashed = murmur_hash32(
        torch.tensor(seeds), torch.tensor(positions), torch.tensor(columns, dtype=torch.int32)
    )
    assert hashed.dtype == torch.uint32 and hashed.shape == (7, 5)
    expected = [
        [reference(seed, position, column) for column in columns]
        for seed, position in zip(seeds, positions, strict=True)
    ]
    assert hashed.to(torch.int64).tolist() == expected

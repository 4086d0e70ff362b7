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


def test_murmur_hash_of_any_shape_and_any_bits_equals_its_definition():
    numbers = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 1), (3, 17), (17, 3)):
        seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=numbers)
        positions = torch.randint(0, 2**32, (rows,), generator=numbers)
        ids = torch.randint(0, 2**32, (columns,), generator=numbers)
        expected = [
            [reference(seed, position, column) for column in ids.tolist()]
            for seed, position in zip(seeds.tolist(), positions.tolist(), strict=True)
        ]
        for given in (seeds, seeds.view(torch.uint64)):  # as SGLang hands them over: uint64
            assert murmur_hash32(given, positions, ids).to(torch.int64).tolist() == expected


def test_the_hash_of_no_rows_and_of_rows_without_columns_is_empty():
    none = torch.zeros(0, dtype=torch.int64)
    assert murmur_hash32(none, none, torch.arange(5)).shape == (0, 5)
    assert murmur_hash32(torch.arange(2), torch.arange(2), none).shape == (2, 0)

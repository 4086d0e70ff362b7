import os
import subprocess
import sys

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


COMPARE = """
import importlib.util
import torch
from megatron_ar3po.platform.sglang_cpu import murmur_hash32

package = importlib.util.find_spec("sglang").submodule_search_locations[0]  # without importing it
spec = importlib.util.spec_from_file_location("k", package + "/kernels/ops/sampling/murmur_hash.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

def run_kernel(seeds, positions, columns):
    hashed = torch.empty(len(seeds), len(columns), dtype=torch.uint32)
    grid = (len(seeds), -(-len(columns) // 1024))
    module.murmur_hash32_kernel[grid](seeds, positions, columns, hashed, *hashed.shape, BLOCK_SIZE=1024)
    return hashed

numbers = torch.Generator().manual_seed(0)
draw = lambda low, high, size: torch.randint(low, high, (size,), generator=numbers)
edges = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 5, 2**63 - 1, -1, -(2**63)])
places = torch.tensor([0, 1, 77, 2047, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 5, 6])
cases = [(edges[:2], places[:2], torch.arange(1030)), (edges, places, draw(0, 2**32, 5))]
for rows in (1, 3):
    columns = int(draw(1, 1025, 1))
    cases.append((draw(-(2**63), 2**63 - 1, rows), draw(0, 2**31, rows), torch.arange(columns)))
for seeds, positions, columns in cases:
    found = murmur_hash32(seeds.view(torch.uint64), positions, columns)
    assert found.dtype == torch.uint32
    assert torch.equal(found, run_kernel(seeds.view(torch.uint64), positions, columns))
print(len(cases))
"""


def test_murmur_hash_equals_sglangs_own_kernel():
    """Triton's interpreter runs it, on the CPU; it must be asked for before Triton is imported."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPARE],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.stdout == "4\n", done.stderr

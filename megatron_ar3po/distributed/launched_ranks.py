"""Which rank this process is, as the program says that started it (torchrun, or a script of one's own under srun): in
RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, all four. Other programs leave some of them behind; a part of them starts
no ranks, and would only mislead the libraries that read them too."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # alone they are Slurm's, for `launch.node`
_NEEDED = ("RANK", "WORLD_SIZE", *_ADDRESS)
_OF_A_RANK = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
)


def drop_leftover_ranks(environment: MutableMapping[str, str], *, is_alone: bool = False) -> str:
    """Removes what starts no ranks; returns a sentence about it, or "". `is_alone`: of a command that is one process,
    whatever the environment says."""
    missing = [name for name in _NEEDED if name not in environment]
    if not missing and not is_alone:
        return ""
    leftover = [name for name in _OF_A_RANK if name in environment]
    if not leftover:
        return ""
    leftover += [name for name in _ADDRESS if name in environment]
    words = " ".join(f"{name}={environment[name]}" for name in leftover)
    for name in [n for n in environment if n in leftover or n.startswith("TORCHELASTIC_")]:
        del environment[name]
    if not missing:
        return ""
    return (
        f"{words} is ignored, left over in the environment: without {' and '.join(missing)} it starts no ranks. This "
        "is a run of one process; torchrun starts more."
    )


def read_rank(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, world size); (0, 1) of a process that nobody started as one of several. Raises ValueError for what is no
    rank."""
    if "RANK" not in environment:
        return 0, 1
    rank, world_size = environment["RANK"], environment.get("WORLD_SIZE", "")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise ValueError(
            f"RANK={rank} of the environment is none of WORLD_SIZE={world_size or '(empty)'} ranks, which count from "
            f"0; start ranks with torchrun, or unset {', '.join(_NEEDED)} for a run of one process."
        )
    return int(rank), int(world_size)


def gpu_of_rank(environment: Mapping[str, str], num_visible: int) -> int:
    """The number, among those that CUDA shows, of this rank's GPU."""
    stated = environment.get("LOCAL_RANK", "0")
    if not stated.isdecimal():
        raise ValueError(
            f"LOCAL_RANK={stated or '(empty)'} of the environment is no number; a node counts its ranks from 0."
        )
    local_rank = int(stated)
    if local_rank >= num_visible:
        shown = environment.get("CUDA_VISIBLE_DEVICES", "unset")
        raise ValueError(
            f"LOCAL_RANK={local_rank} wants GPU {local_rank} of this node, counted from 0, but CUDA shows "
            f"{num_visible} (CUDA_VISIBLE_DEVICES={shown}); start at most one rank for each, or show more."
        )
    return local_rank

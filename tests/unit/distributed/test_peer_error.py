"""What is told of other ranks with an error of this one."""

from __future__ import annotations

import pickle

from megatron_ar3po.distributed.peer_error import add_note, notes_of


def test_a_note_of_somebody_else_is_not_told_as_one_of_other_ranks():
    """A reader's traceback, which the prompts' own process leaves on its error, stood behind the sentence."""
    error = ValueError("300 of 300 prompts are too long")
    error.__notes__ = ["Traceback (most recent call last): ..."]  # type: ignore[attr-defined]
    assert notes_of(error) == []
    add_note(error, "Meanwhile rank 2 (node1): not heard of for 30 s.")
    assert notes_of(error) == ["Meanwhile rank 2 (node1): not heard of for 30 s."]
    assert len(vars(error)["__notes__"]) == 2  # Python's own traceback shows both
    assert notes_of(pickle.loads(pickle.dumps(error))) == notes_of(error)

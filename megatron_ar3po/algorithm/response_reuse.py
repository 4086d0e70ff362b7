"""Response reuse: an unsolved group borrows an earlier correct response (AR3PO, arXiv:2509.25808).

The borrowed response takes the place of one incorrect response, so the group keeps its size and
gains one correct member; the advantages are then computed as usual. Here is who borrows, how the
borrowed response joins, and what is worth keeping. Which stored response is lent is the store's
affair; what the borrowed response trains is decided in `training_samples` (Option I or II).

Which incorrect response leaves is uniform (the paper does not say) and a pure function of (seed,
step, prompt, position), so every rank of a replica and every resumed run chooses the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from megatron_ar3po.types import ResponseGroup, ScoredResponse


def needs_a_loan(group: ResponseGroup) -> bool:
    """Unsolved after its last stage: no response is correct. Of a group without graded responses
    that is not known."""
    return bool(group.responses) and not group.is_solved


def with_borrowed(
    group: ResponseGroup, borrowed: ScoredResponse | None, *, seed: int, step: int
) -> ResponseGroup:
    """The group with `borrowed` in the place of one incorrect response, which is left out from now
    on; unchanged when the store had none."""
    if borrowed is None:
        return group
    _check_loan(group, borrowed, step)
    responses = list(group.responses)
    leaving = _hash_rank(seed, step, group.prompt.prompt_id, group.position) % len(responses)
    left_out = (*group.left_out, responses[leaving])
    responses[leaving] = replace(borrowed, origin="reused")
    return replace(group, responses=tuple(responses), left_out=left_out)


def responses_worth_keeping(groups: Sequence[ResponseGroup]) -> list[ScoredResponse]:
    """The fresh correct responses of a step. A borrowed one is in the store already and never goes
    back."""
    return [
        scored
        for group in groups
        for scored in group.responses
        if scored.origin == "fresh" and scored.is_correct
    ]


def loans_beyond_the_cap(groups: Sequence[ResponseGroup], max_frac: float) -> frozenset[int]:
    """Positions of the groups that must not train, so that at most `max_frac` of those that do have
    borrowed. `groups`: those of the whole step that carry signal. Who stays is decided by hash
    rank, of the names of the responses: the same on every rank.

    Six groups with signal of their own, six that borrowed: 0.25 lets 2 of the latter train (2 of 8),
    0.5 all six, 0 none. Without signal of its own a step with a cap below 1 trains nothing.
    """
    borrowers = [group for group in groups if group.num_borrowed]
    if max_frac >= 1:
        return frozenset()
    num_own = len(groups) - len(borrowers)
    allowed = int(num_own * max_frac / (1 - max_frac) + 1e-9)
    by_hash_rank = sorted(
        borrowers,
        key=lambda g: _hash_rank(g.position, *(s.response.response_id for s in g.responses)),
    )
    return frozenset(group.position for group in by_hash_rank[allowed:])


def _check_loan(group: ResponseGroup, borrowed: ScoredResponse, step: int) -> None:
    """Only our own code can break these."""
    own, response = group.prompt.prompt_id, borrowed.response
    assert group.responses, f"prompt {own} has no response that could be replaced"
    assert needs_a_loan(group), f"prompt {own} is solved and borrows nothing"
    assert borrowed.is_correct, (
        f"prompt {own} was lent {response.response_id}, which is not correct"
    )
    assert response.prompt_id == own, f"prompt {own} was lent an answer to {response.prompt_id}"
    assert response.step < step, (
        f"prompt {own} was lent a response of step {response.step} in step {step}; a step borrows "
        "from strictly earlier ones"
    )


def _hash_rank(*key: object) -> int:
    """Of a hash, not of a generator: the choice depends on nothing that was drawn before it."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:16], "big")

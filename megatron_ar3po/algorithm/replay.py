"""Replay: rows of earlier steps train again, without a new response.

A row is a response with its tokens, its behaviour log-probs and the advantage that it had. In a step with F rows that
train, R = round(f / (1 - f) F) rows are drawn uniformly, without replacement, from those of the steps before that lie
in the window: f is `reuse.replay_frac`, their share of the step. Their ratio is measured against the log-probs that are
stored with them, and clipped (as in RePO, arXiv:2506.09340, and ExGRPO, 2510.02245, in this respect). Biased: the
advantage is that of its own step.

    F 24, f 1/2: R 24        F 24, f 1/4: R 8        F 5, f 1/3: R 2 (of 2.5)

The window is `reuse.replay_window` responses: the newest steps, until their responses are so many; the step that
reaches the number counts whole, and the last step always does.

    responses of steps 1 to 4: 100 120 90 110, window 200: steps 3 and 4; 201: steps 2 to 4; 1: step 4

Which rows come is decided by a hash of (run seed, step, response id), so it hangs on neither the layout nor a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def num_replayed(num_rows: int, replay_frac: float) -> int:
    """Rows to draw in a step in which `num_rows` train, over all replicas."""
    return round(replay_frac / (1 - replay_frac) * num_rows)


def first_step_of_window(responses: Mapping[int, int], window: int) -> int:
    """`responses`: of each step done so far. Steps from this one on are in the window; 0 where there are none."""
    first, total = 0, 0
    for step in sorted(responses, reverse=True):
        first = step
        total += responses[step]
        if total >= window:
            break
    return first


def replay_rank(run_seed: int, step: int, response_id: str) -> str:
    """Rows of the smallest ranks are drawn."""
    text = f"{run_seed}:{step}:replay:{response_id}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

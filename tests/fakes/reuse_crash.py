"""A process that deposits without pause, killed at a random moment; and what must be true of its shard afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from fakes.reuse_cases import (
    assert_same_response,
    contents,
    deposit,
    make_prompt,
    make_response,
    open_store,
)

RESPONSES_PER_STEP = 30


def responses_of(step: int) -> list:
    """Prompts come back, so that evictions and loans are under way too."""
    numbers = [(step * 7 + i) % 100 for i in range(RESPONSES_PER_STEP)]
    return [make_response(make_prompt(n), step, i, num_tokens=400) for i, n in enumerate(numbers)]


def deposit_forever(folder: Path, first_step: int, acknowledged: Connection) -> None:
    store = open_store(folder, max_responses_per_prompt=3)
    store.rollback({"step": first_step - 1})
    step = first_step
    acknowledged.send(step - 1)
    while True:
        deposit(store, responses_of(step), step)
        acknowledged.send(step)  # only now is the deposit acknowledged
        store.borrow(make_prompt(step % 100).prompt_id, step=step)
        if step % 5 == 0:
            store.commit_checkpoint({"step": store.cursor["step"] - 3})
        step += 1


def kill_at_random_moments(folder: Path, num_kills: int, *, seed: int = 0) -> int:
    """Returns the number of steps that were acknowledged over all lives of the process."""
    context = multiprocessing.get_context("fork")
    rng = random.Random(seed)
    step, typical_s = 0, 0.02
    for _ in range(num_kills):
        receiver, sender = context.Pipe(duplex=False)
        victim = context.Process(target=deposit_forever, args=(folder, step + 1, sender))
        victim.start()
        sender.close()
        try:
            assert receiver.poll(60), "the depositing process did not start"
            assert receiver.recv() == step
            for _ in range(rng.randrange(3)):
                started = time.monotonic()
                assert receiver.poll(60), "a deposit did not end"
                step, typical_s = receiver.recv(), time.monotonic() - started
            time.sleep(rng.uniform(0, 1.5 * typical_s))
        finally:
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            victim.join(60)
        try:
            while receiver.poll():
                step = receiver.recv()
        except EOFError:  # the pipe's other end died with the victim; all it sent has been read
            pass
        check_acknowledged(folder, step)
    return step


def check_acknowledged(folder: Path, step: int) -> None:
    """Every acknowledged step's responses went in; the step that was under way is there whole or not at all; each
    stored response reads back as it was deposited."""
    with open_store(folder, max_responses_per_prompt=3) as store:
        assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        held = contents(store.path)
        newest = max((row[0] for row in held.values()), default=0)
        assert newest in (step, step + 1), (
            f"acknowledged step {step}, the store knows step {newest}"
        )
        for known in range(max(1, step - 2), newest + 1):
            expected = {r.response.response_id for r in responses_of(known)}
            assert expected <= held.keys(), f"step {known} is there in part"
        by_id = {
            r.response.response_id: r for known in range(1, newest + 1) for r in responses_of(known)
        }
        for number in range(100):
            scored = store.borrow(make_prompt(number).prompt_id, step=newest + 1)
            if scored is not None:
                assert_same_response(scored, by_id[scored.response.response_id])
        store.rollback({"step": step})
        assert len(store) == sum(row[1] is None for row in contents(store.path).values())

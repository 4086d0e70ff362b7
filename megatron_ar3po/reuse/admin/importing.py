"""`ar3po reuse import`: responses of a file become stored ones.

Every run names its responses alike (s7.p3.1.0: step, position, stage, index), so a name says nothing in another run. An
imported response is called `import-DIGEST.NAME`, with the name that it had, if any, and a digest of it, of the prompt's
tokens and of its own. So it never has the name of a response of this run, two of different origin have two names, and
one that comes by again, through however many exports, has the name that it has.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.distributed.layout import owner_dp_rank
from megatron_ar3po.reuse.admin.maintenance import Grader, require_whole_store
from megatron_ar3po.reuse.database import ReuseStoreError
from megatron_ar3po.reuse.owner import check_no_run
from megatron_ar3po.reuse.store import ReuseStore
from megatron_ar3po.types import Prompt, Response, ScoredResponse

_LINES_AT_A_TIME = 1000
_IMPORTED = re.compile(r"import-[0-9a-f]{16}(?:\.|$)")


def import_lines(path: Path, lines: Path, grader: Grader, *, config: ReuseConfig) -> dict[str, int]:
    """Deposits the responses of a JSONL file (the format of an export) that today's verifier calls correct, under names
    of their own. A file can be imported again, into the store that it was exported from too: what is there already is
    left alone."""
    folder, shard_set, state = require_whole_store(path)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        stores = [
            stack.enter_context(
                ReuseStore.open(
                    folder,
                    dp_rank=rank,
                    dp_size=shard_set.dp_size,
                    config=config,
                    run_seed=0,
                    fingerprint=replace(state.fingerprint, verdicts=dict(grader.verdicts)),
                    sampler={"imported_from": lines.name},
                )
            )
            for rank in range(shard_set.dp_size)
        ]
        check_no_run(folder)
        file = stack.enter_context(lines.open(encoding="utf-8"))
        batch: list[tuple[Prompt, ScoredResponse]] = []
        for number, line in enumerate(file, start=1):
            counts["read"] += 1
            prompt, response = _parse(line, f"{lines}:{number}", step=state.clock)
            today = grader.current_prompt(prompt)
            if today is None:
                counts["unknown_prompt"] += 1
                continue
            response = replace(response, prompt_id=today.prompt_id)
            store = stores[owner_dp_rank(today.prompt_id, len(stores))]
            if _is_there(store, response):
                counts["already_there"] += 1
                continue
            scored = ScoredResponse(response=response, verdict=grader.verify(today, response))
            if not scored.is_correct:
                counts["not_correct" if scored.is_graded else "verifier_failed"] += 1
                continue
            batch.append((today, scored))
            if len(batch) == _LINES_AT_A_TIME:
                counts["imported"] += _deposit(stores, batch, step=state.clock)
                batch = []
        counts["imported"] += _deposit(stores, batch, step=state.clock)
    return dict(counts)


def imported_id(response_id: str, *, prompt_token_ids: Sequence[int], tokens: np.ndarray) -> str:
    """The name that a response has in the store that it is imported into; `response_id` is empty where it has none."""
    original = original_id(response_id)
    named = json.dumps([list(prompt_token_ids), original]).encode()
    digest = blake2b(named + tokens.tobytes(), digest_size=8).hexdigest()
    return f"import-{digest}.{original}" if original else f"import-{digest}"


def original_id(response_id: str) -> str:
    """What it was called before it was imported.

    >>> original_id("import-0123456789abcdef.s7.p3.1.0"), original_id("s7.p3.1.0")
    ('s7.p3.1.0', 's7.p3.1.0')
    """
    return _IMPORTED.sub("", response_id, count=1)


def _is_there(store: ReuseStore, response: Response) -> bool:
    """Under its new name, or under the one that it had where it comes from."""
    original = original_id(response.response_id)
    found = store.find_named(response.prompt_id, lambda name: original_id(name) == original)
    return any(np.array_equal(other.token_ids, response.token_ids) for other in found)


def _deposit(
    stores: list[ReuseStore], batch: list[tuple[Prompt, ScoredResponse]], *, step: int
) -> int:
    num_new = 0
    for rank, store in enumerate(stores):
        mine = [pair for pair in batch if owner_dp_rank(pair[0].prompt_id, len(stores)) == rank]
        prompts = {prompt.prompt_id: prompt for prompt, _ in mine}
        num_new += store.deposit([scored for _, scored in mine], prompts=prompts, step=step)
    return num_new


def _parse(line: str, where: str, *, step: int) -> tuple[Prompt, Response]:
    try:
        fields: Mapping[str, Any] = json.loads(line)
        prompt_fields = fields["prompt"]
        prompt = Prompt(
            prompt_id=str(fields.get("prompt_id", "")),
            token_ids=tuple(map(int, prompt_fields["token_ids"])),
            ground_truth=str(prompt_fields["ground_truth"]),
            text=str(prompt_fields.get("text", "")),
            source=str(prompt_fields.get("source", "")),
            metadata=dict(prompt_fields.get("metadata", {})),
        )
        tokens = np.asarray(fields["token_ids"], dtype=np.int32)
        logprobs = np.asarray(fields["logprobs"], dtype=np.float32)
        if tokens.ndim != 1 or tokens.shape != logprobs.shape or not np.isfinite(logprobs).all():
            raise ValueError(
                f"{tokens.size} token_ids and {logprobs.size} finite logprobs do not go together"
            )
        response = Response(
            response_id=imported_id(
                str(fields.get("response_id", "")), prompt_token_ids=prompt.token_ids, tokens=tokens
            ),
            prompt_id=prompt.prompt_id,
            token_ids=tokens,
            logprobs=logprobs,
            finish_reason=fields.get("finish_reason", "stop"),
            policy_version=int(fields.get("policy_version", 0)),
            step=step,
            stage=int(fields.get("stage", 1)),
            index=int(fields.get("index", 0)),
            server=str(fields.get("server", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ReuseStoreError(
            f"{where} is not a response to import ({type(error).__name__}: {error}); it needs token_ids, logprobs, "
            "prompt.token_ids and prompt.ground_truth, as `ar3po reuse export` writes them. "
            "Importing the mended file again is safe."
        ) from error
    return prompt, response

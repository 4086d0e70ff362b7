"""`RequestBatches`: requests to one server that are made in the same turn of the event loop travel in one HTTP call
(`servers.requests`).

Promises:
- each request keeps its id, its parameters and an end of its own: a response, or what became of this request alone;
- a response is handed over when the server has it, not when the call is done: SGLang streams the call, in two parts for
  each response, its first token and the whole of it;
- nobody waits for company: what is alone in its turn is an HTTP call as ever, answered in one piece;
- a call that the server refuses as a whole is sent again request by request, so that each learns what is its own;
- once nobody waits for any of its responses, a call is cut off, and the server aborts what is left of it.

Time limits, tries, aborts and counts are the engine's, which sees no batches.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from megatron_ar3po.async_tasks import end, gather
from megatron_ar3po.http_client import HttpClient
from megatron_ar3po.platform.sglang_launch import PROCESS_HEADER
from megatron_ar3po.servers.engine_responses import (
    LostRequest,
    RefusedRequest,
    RequestError,
    check_status,
    decode_response,
)
from megatron_ar3po.servers.server import parse_process
from megatron_ar3po.usage import Process

logger = logging.getLogger(__name__)

# A server reads the body of a call in one go and answers nobody meanwhile: tens of milliseconds for so much.
_MOST_TOKENS_OF_A_CALL = 131_072


@dataclass(frozen=True, slots=True)
class Reply:
    """`content`: SGLang's response to one request. `process`: who answered, where the answer says so."""

    content: dict[str, Any]
    process: Process | None


@dataclass(slots=True, eq=False)
class _Item:
    rid: str
    body: dict[str, Any]
    reply: asyncio.Future[Reply]

    def finish(self, reply: Reply) -> None:
        if not self.reply.done():  # whoever waited may have left
            self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


@dataclass(slots=True, eq=False)
class _Batch:
    url: str
    items: list[_Item] = field(default_factory=list)
    task: asyncio.Future[None] | None = None


class RequestBatches:
    def __init__(self, http: HttpClient, *, by: Literal["single", "stage", "step"]) -> None:
        """`by`: what may travel together: nothing, requests with one prompt, or whatever goes to one server."""
        self._http = http
        self._by = by
        self._gathering: dict[tuple[str, tuple[int, ...]], _Batch] = {}
        self._running: set[asyncio.Future[None]] = set()
        self._names = (f"{secrets.token_hex(4)}.{number}" for number in itertools.count())

    def unique_id(self, rid: str) -> str:
        """Two seconds after a streamed call has ended SGLang aborts whatever still runs under one of its ids
        (tokenizer_manager.create_abort_task): an id is used once, by whichever client."""
        return rid if self._by == "single" else f"{rid}{next(self._names)}/"

    async def send(
        self, url: str, rid: str, body: dict[str, Any], *, prompt_token_ids: tuple[int, ...] | None
    ) -> Reply:
        """`body`: of SGLang's /generate. `prompt_token_ids`: of what may travel with others; None: it goes alone.
        Raises `LostRequest`, `RefusedRequest`, and `HttpError` for a call that came to nothing."""
        if self._by == "single" or prompt_token_ids is None:
            return await self._send_alone(url, rid, body)
        key = (url, prompt_token_ids if self._by == "stage" else ())
        if (batch := self._gathering.get(key)) is None:
            batch = self._gathering[key] = _Batch(url)
            # It begins when all that are ready now have had their turn.
            batch.task = asyncio.ensure_future(self._send_batch(key, batch))
            self._running.add(batch.task)
            batch.task.add_done_callback(self._running.discard)
        item = _Item(rid, body, asyncio.get_running_loop().create_future())
        batch.items.append(item)
        try:
            return await item.reply
        except asyncio.CancelledError:
            if batch.task is not None and all(one.reply.done() for one in batch.items):
                if self._gathering.get(key) is batch:
                    del self._gathering[key]
                await end([batch.task])
            raise

    async def close(self) -> None:
        await end(list(self._running))

    async def _send_batch(self, key: tuple[str, tuple[int, ...]], batch: _Batch) -> None:
        del self._gathering[key]
        await gather(self._call(batch.url, items) for items in _split(batch.items))

    async def _call(self, url: str, items: Sequence[_Item]) -> None:
        """To the end of each."""
        try:
            if len(items) == 1:
                items[0].finish(await self._send_alone(url, items[0].rid, items[0].body))
            else:
                await self._stream(url, items)
        except RefusedRequest as refused:
            if len(items) == 1:
                items[0].fail(refused)
            else:
                left = [item for item in items if not item.reply.done()]
                await gather(self._call(url, [item]) for item in left)
        except Exception as error:  # those that wait raise it
            for item in items:
                item.fail(copy.copy(error))  # each adds to its own traceback

    async def _send_alone(self, url: str, rid: str, body: dict[str, Any]) -> Reply:
        response = await self._http.request(
            "POST", f"{url}/generate", json={"rid": rid, "return_logprob": True, **body}
        )
        process = parse_process(response.headers.get(PROCESS_HEADER, ""))
        with _answered_by(process):
            check_status(response.status, response.body)
            return Reply(decode_response(response.body, rid=rid), process)

    async def _stream(self, url: str, items: Sequence[_Item]) -> None:
        by_rid = {item.rid: item for item in items}
        body = _join([(item.rid, item.body) for item in items])
        async with self._http.stream("POST", f"{url}/generate", json=body) as stream:
            process = parse_process(stream.headers.get(PROCESS_HEADER, ""))
            with _answered_by(process):
                if stream.status != 200:
                    check_status(stream.status, await stream.read())
                async for event in stream.events():
                    if event != b"[DONE]":
                        _hand_over(event, by_rid, process)
                if not all(item.reply.done() for item in items):
                    raise LostRequest("the server ended its answer without a response to it")


def _hand_over(event: bytes, items: dict[str, _Item], process: Process | None) -> None:
    """To the one that it is for, once it is whole. One that nobody can read is for nobody: whose it was is lost."""
    try:
        content = json.loads(event)
        if "error" in content:
            check_status(int(content["error"].get("code") or 500), event)
        item = items[content["meta_info"]["id"]]
        reason = content["meta_info"]["finish_reason"]
        status = int(reason.get("status_code") or 200) if reason else 200
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("the server answered a batch of requests with %r", event[:200])
        return
    if not reason:
        return  # its first token
    try:
        with _answered_by(process):
            check_status(status, str(reason.get("message")).encode())
    except RequestError as error:
        item.fail(error)
    else:
        item.finish(Reply(content, process))


@contextmanager
def _answered_by(process: Process | None) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        error.process = process
        raise


def _join(requests: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The body of one call.

    >>> a = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 9, "sampling_seed": 5}}
    >>> joined = _join([("a", a), ("b", {**a, "input_ids": [3]})])
    >>> joined["rid"], joined["input_ids"], joined["sampling_params"][1]
    (['a', 'b'], [[1, 2], [3]], {'max_new_tokens': 9, 'sampling_seed': 5, 'stream_interval': 9})
    """
    names = requests[0][1]
    joined = {name: [body[name] for _, body in requests] for name in names}
    # A part every so many tokens: the first one is sent at once, and what is left at its end.
    joined["sampling_params"] = [
        {**parameters, "stream_interval": parameters["max_new_tokens"]}
        for parameters in joined["sampling_params"]
    ]
    rids = [rid for rid, _ in requests]
    return {"rid": rids, "return_logprob": True, "stream": True, **joined}


def _split(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Into calls of a bounded size; those that nobody waits for any more are left out."""
    call: list[_Item] = []
    num_tokens = 0
    for item in items:
        if item.reply.done():
            continue
        length = len(item.body["input_ids"])
        if call and num_tokens + length > _MOST_TOKENS_OF_A_CALL:
            yield call
            call, num_tokens = [], 0
        call.append(item)
        num_tokens += length
    if call:
        yield call

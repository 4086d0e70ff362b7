"""`SglangEngine`: samples from SGLang servers over HTTP, one request per response.

Promises:
- token in, token out: what comes back is checked (lengths, vocabulary, finish reason, one policy version) before
  anyone sees it; an answer that fails is drawn again or raised, never passed on;
- one `generate` returns one answer: each try is a request of its own under an id of its own, and the id of a try that
  was given up is aborted at the server, so no answer can be counted twice;
- every wait has a limit; a server that dies or hangs is handed to `on_server_lost` once, however many requests it took
  with it, and then only those are drawn again;
- all that the servers did is counted (`usage`), answers that were thrown away included.

A prompt's samples all go to one server, which holds its prefix.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import numpy as np

from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import PROCESS_HEADER
from megatron_ar3po.types import (
    FinishReason,
    Generation,
    GenerationRequest,
    Scoring,
    ScoringRequest,
)

logger = logging.getLogger(__name__)

_HEALTH_TIMEOUT_S = 30.0  # SGLang gives its own scheduler 20 s to answer
_ABORT_TIMEOUT_S = 10.0
_FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "abort")


Process = tuple[str, int]  # one process of a server: its name, and how often it was restarted

NOBODY: Process = ("(lost on the way)", 0)  # behind a router: it may have been anyone's


class Server(Protocol):
    """What the client needs of a server process."""

    name: str

    @property
    def url(self) -> str: ...

    @property
    def num_restarts(self) -> int: ...

    def is_running(self) -> bool: ...

    def last_words(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUsage:
    """What one process of a server was asked and answered, as this client saw it. The first four are what the server
    counts too; `aborted_*` and `unused_*` are the parts of them that became no response."""

    requests: int = 0  # answered, whatever became of the answer
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    aborted_requests: int = 0  # stopped while they ran, by us or by the server
    aborted_generated_tokens: int = 0
    unused_requests: int = 0  # answered in a way that could not be used, and drawn again
    unused_generated_tokens: int = 0
    queue_aborts: int = 0  # stopped before they began: the server counts them nowhere
    lost_requests: int = 0  # sent, no readable answer: counted there in whole, in part or not
    lost_prompt_tokens: int = 0  # the most that the lost ones can have come to
    lost_generated_tokens: int = 0

    def __add__(self, other: ServerUsage) -> ServerUsage:
        return ServerUsage(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )


class LostRequest(Exception):
    """One try brought no usable answer; another may."""


Answer = TypeVar("Answer", Generation, Scoring)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[Answer]):
    """What is asked of /generate, how the answer is read, and the most that it may have cost when it gets lost."""

    request_id: str
    prompt_token_ids: tuple[int, ...]  # of the prompt alone: its server holds them
    body: dict[str, Any]
    read: Callable[[dict[str, Any], str], Answer]  # (SGLang's answer, name of the server)
    lost: ServerUsage


@dataclass(slots=True)
class _ServerState:
    server: Server
    repair: asyncio.Lock = field(default_factory=asyncio.Lock)


class SglangEngine:
    """A `RolloutEngine`. `on_server_lost(server)` blocks until the server runs again and holds the current weights
    under the current version; without one a lost server ends the run."""

    def __init__(
        self,
        servers: Sequence[Server],
        config: RolloutConfig,
        *,
        vocab_size: int,
        on_server_lost: Callable[[Any], None] | None = None,
    ) -> None:
        assert servers, "an engine needs at least one server"
        self.on_server_lost = on_server_lost
        self.usage: dict[Process, ServerUsage] = {}
        self._id_prefix = ""
        self._in_flight: dict[str, tuple[Sequence[str], str]] = {}  # by request id: URLs, which try
        self._servers = [_ServerState(server) for server in servers]
        self._config = config
        self._vocab_size = vocab_size
        self._session: aiohttp.ClientSession | None = None

    @property
    def servers(self) -> list[Server]:
        return [state.server for state in self._servers]

    async def generate(self, request: GenerationRequest) -> Generation:
        return await self._answered(self._generation(request))

    async def score(self, request: ScoringRequest) -> Scoring:
        return await self._answered(self._scoring(request))

    async def _answered(self, request: Question[Answer]) -> Answer:
        state = self._server_of(request.prompt_token_ids)
        failure: Exception | None = None
        for attempt in range(self._config.max_retries + 1):
            await self._wait_for_repair(state)
            process = state.server.num_restarts
            try:
                server = state.server
                return await self._attempt(server.url, request, attempt, process=process_of(server))
            except LostRequest as lost:
                failure = lost
                logger.warning(
                    "request %s, try %d on %s: %s",
                    request.request_id,
                    attempt + 1,
                    state.server.name,
                    lost,
                )
            await self._repair_if_lost(state, process)
        raise RolloutEngineError(
            f"request {request.request_id} brought no usable answer from server {state.server.name} in "
            f"{self._config.max_retries + 1} tries (rollout.max_retries={self._config.max_retries}); "
            f"the last: {failure}. "
            f"{state.server.last_words()}"
        )

    async def abort(self, request_id: str) -> None:
        """The try that is in flight; harmless when there is none."""
        if (running := self._in_flight.get(request_id)) is not None:
            await self._abort_try(*running)

    async def repair_all(self) -> None:
        """Servers that are dead now serve again when this returns: before the next publish, after a rollout."""
        for state in self._servers:
            if not state.server.is_running():
                await self._repair_if_lost(state, state.server.num_restarts)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _server_of(self, prompt_token_ids: Sequence[int]) -> _ServerState:
        if len(self._servers) == 1:
            return self._servers[0]
        prefix = zlib.crc32(np.asarray(prompt_token_ids, dtype=np.int32).tobytes())
        return self._servers[prefix % len(self._servers)]

    async def _attempt(
        self,
        url: str,
        request: Question[Answer],
        attempt: int,
        *,
        process: Process,
        abort_at: Sequence[str] = (),
    ) -> Answer:
        """`process`: who answers, unless the answer says so itself, as it must when a router chooses."""
        abort_at = abort_at or (url,)
        rid = _try_id(self._id_prefix + request.request_id, attempt)
        started = time.monotonic()
        answered = False
        self._in_flight[request.request_id] = (abort_at, rid)
        try:
            async with self._http().post(
                f"{url}/generate", json={"rid": rid, "return_logprob": True, **request.body}
            ) as http_response:
                text = await http_response.read()
            process = stated_process(http_response.headers.get(PROCESS_HEADER, "")) or process
            if http_response.status == 400:
                raise RolloutEngineError(
                    f"server {process[0]} refuses request {rid}: {text[:500].decode(errors='replace')}"
                )
            if http_response.status != 200:
                raise LostRequest(f"HTTP {http_response.status}: {text[:200]!r}")
            answer = _decoded(text)
            seen = usage_of(answer["meta_info"])
            answered = True
            try:
                result = request.read(answer, process[0])
            except (LostRequest, RolloutEngineError):
                seen = unused(seen)
                raise
            finally:
                self._count(process, seen)
        except asyncio.TimeoutError as error:
            await self._abort_try(abort_at, rid)
            limit = self._config.request_timeout_s
            raise LostRequest(f"no answer within rollout.request_timeout_s={limit:g}") from error
        except aiohttp.ClientError as error:
            raise LostRequest(f"{type(error).__name__}: {error}") from error
        finally:
            del self._in_flight[request.request_id]
            if (
                not answered
            ):  # also when we cancel: the server aborts a request whose client is gone
                self._count(process, request.lost)
        return replace(result, server=process[0], elapsed_s=time.monotonic() - started)

    def _generation(self, request: GenerationRequest) -> Question[Generation]:
        sampling = request.sampling
        parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_response_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
        }
        if self._config.deterministic:
            parameters["sampling_seed"] = request.seed

        def read(answer: dict[str, Any], server: str) -> Generation:
            generation = parse_generation(answer, vocab_size=self._vocab_size)
            _check_length(generation, request, server)
            return generation

        return Question(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            body={"input_ids": list(request.prompt_token_ids), "sampling_params": parameters},
            read=read,
            lost=lost_usage(
                prompt_tokens=len(request.prompt_token_ids),
                generated_tokens=sampling.max_response_tokens,
            ),
        )

    def _scoring(self, request: ScoringRequest) -> Question[Scoring]:
        """No new token; the log-probs of the input's tokens behind the prompt's last one."""
        asked = [*request.prompt_token_ids, *request.response_token_ids]
        return Question(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            body={
                "input_ids": asked,
                "sampling_params": {"max_new_tokens": 0},
                "logprob_start_len": len(request.prompt_token_ids) - 1,
            },
            read=lambda answer, server: parse_scoring(answer, request, vocab_size=self._vocab_size),
            lost=lost_usage(prompt_tokens=len(asked), generated_tokens=0),
        )

    async def _wait_for_repair(self, state: _ServerState) -> None:
        if state.repair.locked():
            async with state.repair:
                pass

    async def _repair_if_lost(self, state: _ServerState, process: int) -> None:
        """Waits until the server of a lost request serves again. The first of its requests to come here restarts it,
        the others find it done."""
        async with state.repair:
            server = state.server
            if server.num_restarts != process or (
                server.is_running() and await self._is_healthy(server)
            ):
                return
            if self.on_server_lost is None:
                raise RolloutEngineError(f"server {server.name} was lost. {server.last_words()}")
            logger.warning("server %s was lost: restarting it", server.name)
            await asyncio.to_thread(self.on_server_lost, server)

    async def _is_healthy(self, server: Server) -> bool:
        try:
            async with self._http().get(
                f"{server.url}/health_generate", timeout=self._limit(_HEALTH_TIMEOUT_S)
            ) as http_response:
                return http_response.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError):  # dead or hung: both are lost
            return False

    async def _abort_try(self, urls: Sequence[str], rid: str) -> None:
        for url in urls:
            try:
                async with self._http().post(
                    f"{url}/abort_request",
                    json={"rid": rid},
                    timeout=self._limit(_ABORT_TIMEOUT_S),
                ):
                    pass
            except (aiohttp.ClientError, asyncio.TimeoutError):
                # A server that cannot hear runs nothing that we wait for.
                logger.info("server %s did not take the abort of %s", url, rid)

    def _count(self, process: Process, usage: ServerUsage) -> None:
        self.usage[process] = self.usage.get(process, ServerUsage()) + usage

    def _limit(self, seconds: float) -> aiohttp.ClientTimeout:
        """No side question may take longer than a request itself."""
        return aiohttp.ClientTimeout(total=min(seconds, self._config.request_timeout_s))

    def _http(self) -> aiohttp.ClientSession:
        """Made inside the running loop and kept between steps, its connections alive."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the controller bounds what is in flight
                timeout=aiohttp.ClientTimeout(total=self._config.request_timeout_s),
            )
        return self._session


def process_of(server: Server) -> Process:
    return server.name, server.num_restarts


def stated_process(header: str) -> Process | None:
    """
    >>> stated_process("dp0.s1/2")
    ('dp0.s1', 2)
    """
    name, _, restarts = header.rpartition("/")
    return (name, int(restarts)) if name and restarts.isdigit() else None


def _try_id(request_id: str, attempt: int) -> str:
    """SGLang aborts every request whose id begins with the one it is given, so no id may be the beginning of another:
    `s1.p1.1.1` would take `s1.p1.1.10` along.

    >>> _try_id("s1.p1.1.1", 1)
    's1.p1.1.1/try2/'
    """
    return f"{request_id}/try{attempt + 1}/"


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
        meta = answer["meta_info"]
    except (ValueError, KeyError, TypeError) as error:
        raise LostRequest(f"malformed answer {text[:200]!r}") from error
    if not isinstance(meta, dict):
        raise LostRequest(f"malformed answer {text[:200]!r}")
    return answer


def usage_of(meta: dict[str, Any]) -> ServerUsage:
    """Of one answer. A request that was aborted in the server's queue comes back without a count of its prompt."""
    reason = meta.get("finish_reason")
    is_abort = isinstance(reason, dict) and reason.get("type") == "abort"
    if is_abort and "prompt_tokens" not in meta:
        return ServerUsage(queue_aborts=1)
    generated = int(meta.get("completion_tokens", 0))
    return ServerUsage(
        requests=1,
        prompt_tokens=int(meta.get("prompt_tokens", 0)),
        cached_prompt_tokens=int(meta.get("cached_tokens", 0)),
        generated_tokens=generated,
        aborted_requests=int(is_abort),
        aborted_generated_tokens=generated if is_abort else 0,
    )


def unused(seen: ServerUsage) -> ServerUsage:
    """The same answer, thrown away. What was aborted became no response either and is counted as that."""
    if seen.aborted_requests or not seen.requests:
        return seen
    return replace(seen, unused_requests=1, unused_generated_tokens=seen.generated_tokens)


def lost_usage(*, prompt_tokens: int, generated_tokens: int) -> ServerUsage:
    return ServerUsage(
        lost_requests=1,
        lost_prompt_tokens=prompt_tokens,
        lost_generated_tokens=generated_tokens,
    )


def parse_generation(answer: dict[str, Any], *, vocab_size: int) -> Generation:
    """SGLang's answer, checked. Raises `LostRequest` for what a second try may mend, `RolloutEngineError` for what it
    cannot (weights of an unknown or mixed version)."""
    meta = answer["meta_info"]
    try:
        token_ids = np.asarray(answer["output_ids"], dtype=np.int32)
        entries = meta["output_token_logprobs"] or []
        logprobs = np.asarray([entry[0] for entry in entries], dtype=np.float32)
        logprob_ids = np.asarray([entry[1] for entry in entries], dtype=np.int32)
        finish_reason = meta["finish_reason"]["type"]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise LostRequest(f"malformed answer: {type(error).__name__} {error}") from error
    if finish_reason not in _FINISH_REASONS:
        raise LostRequest(f"unknown finish reason {finish_reason!r}")
    if finish_reason != "abort":
        _check_tokens(token_ids, logprobs, logprob_ids, vocab_size)
    return Generation(
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=finish_reason,
        policy_version=_policy_version(meta),
        server="",
        num_cached_tokens=int(meta.get("cached_tokens", 0)),
    )


def parse_scoring(answer: dict[str, Any], request: ScoringRequest, *, vocab_size: int) -> Scoring:
    """SGLang's answer to a request for the input's log-probs: one for each token of the response, none sampled. It
    calls the vocabulary's last token 0 here (logprob_result_processor.py), with the right log-prob."""
    meta = answer["meta_info"]
    try:
        if meta["finish_reason"]["type"] == "abort":
            raise LostRequest("aborted by the server")
        entries = meta["input_token_logprobs"][1:]  # the first is the prompt's last token
        token_ids = tuple(entry[1] for entry in entries)
        logprobs = np.asarray([entry[0] for entry in entries], dtype=np.float32)
        num_sampled = len(answer["output_ids"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise LostRequest(f"malformed answer: {type(error).__name__} {error}") from error
    expected = tuple(t if t < vocab_size - 1 else 0 for t in request.response_token_ids)
    if token_ids != expected or num_sampled:
        raise LostRequest(
            f"{len(token_ids)} log-probs and {num_sampled} sampled tokens for the "
            f"{len(request.response_token_ids)} tokens of an answer to be scored"
        )
    if not np.isfinite(logprobs).all():
        raise LostRequest("a log-prob that is not finite")
    return Scoring(
        logprobs=logprobs,
        policy_version=_policy_version(meta),
        server="",
        num_cached_tokens=int(meta.get("cached_tokens", 0)),
    )


def _check_tokens(
    token_ids: np.ndarray, logprobs: np.ndarray, logprob_ids: np.ndarray, vocab_size: int
) -> None:
    if not len(token_ids) or token_ids.ndim != 1:
        raise LostRequest(f"output_ids of shape {token_ids.shape}")
    if not np.array_equal(token_ids, logprob_ids):
        raise LostRequest(
            f"{len(token_ids)} output_ids and {len(logprobs)} log-probs that do not speak of the same tokens"
        )
    if token_ids.min() < 0 or token_ids.max() >= vocab_size:
        raise LostRequest(
            f"token ids outside the vocabulary of {vocab_size}: {token_ids.tolist()[:20]}"
        )
    if not np.isfinite(logprobs).all():
        raise LostRequest("a log-prob that is not finite")


def _check_length(generation: Generation, request: GenerationRequest, server: str) -> None:
    limit, length = request.sampling.max_response_tokens, len(generation.token_ids)
    if generation.finish_reason == "length" and length < limit:
        raise RolloutEngineError(
            f"server {server} cut request {request.request_id} after {length} of "
            f"rollout.max_response_tokens={limit} tokens: prompt ({len(request.prompt_token_ids)} tokens) and answer "
            "do not fit its KV cache. Raise rollout.max_total_tokens (CPU), rollout.sglang.mem_fraction_static (GPU), "
            "or lower the limit."
        )


def _policy_version(meta: dict[str, Any]) -> int:
    """The one version whose weights sampled every token."""
    stated = {str(span["version"]) for span in meta.get("weight_versions") or []}
    stated.add(str(meta.get("weight_version")))
    version = stated.pop()
    if stated:
        raise RolloutEngineError(
            f"the weights changed while a response was sampled (versions {sorted({version, *stated})}); publish only "
            "between rollouts."
        )
    if not version.isdigit():
        raise RolloutEngineError(
            f"the server's weight version is {version!r}: it was never given the run's weights. "
            "Publish before sampling."
        )
    return int(version)

"""A server that somebody else runs, asked for completions: SGLang by its own API, any other by OpenAI's (vLLM and most
others speak it).

The prompt goes there as token ids, so the server reads exactly what a run's own would; SGLang answers in them, and so
may have been started without a tokenizer. Nothing is known of its weights, and nothing of it is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from megatron_ar3po.http_client import HttpClient, HttpError, HttpResponse, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.types import SamplingParams

_LOOK_LIMIT_S = 30.0
_AGAIN = (408, 429, 502, 503, 504)  # a server that is busy, or comes back

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    is_sglang: bool
    is_seeded: bool = False  # SGLang with deterministic inference: one seed, one answer
    model: str = ""  # of OpenAI's API


def find_kind(url: str, model: str = "") -> ServerKind:
    """`model`: its name where a server has several; its first where none is given. Raises ValueError where it is not
    served there, RolloutEngineError for what is no server of either kind."""
    try:
        info = request("GET", f"{url.rstrip('/')}/server_info", timeout_s=_LOOK_LIMIT_S)
        said = info.json() if info.status == 200 else {}
        if isinstance(said, dict) and "skip_tokenizer_init" in said:
            is_seeded = bool(said.get("enable_deterministic_inference"))
            return ServerKind(is_sglang=True, is_seeded=is_seeded)
    except (HttpError, ValueError):  # another server; its own API says whether it is there
        pass
    try:
        response = request("GET", f"{api_of(url)}/models", timeout_s=_LOOK_LIMIT_S)
        served = [str(found["id"]) for found in response.json()["data"]]
    except (HttpError, ValueError, KeyError, TypeError) as error:
        raise RolloutEngineError(
            f"{url} does not say which models it serves ({error}); is it SGLang or a server with OpenAI's API, and "
            "does it run?"
        ) from error
    if not served or (model and model not in served):
        there = ", ".join(served) or "none"
        raise ValueError(f"{url} serves {there}, not {model or 'any model'}; name one of them.")
    return ServerKind(is_sglang=False, model=model or served[0])


def api_of(url: str) -> str:
    """
    >>> api_of("http://127.0.0.1:8000"), api_of("http://127.0.0.1:8000/v1/")
    ('http://127.0.0.1:8000/v1', 'http://127.0.0.1:8000/v1')
    """
    bare = url.rstrip("/")
    return bare if bare.endswith("/v1") else f"{bare}/v1"


class CompletionsClient:
    """`decode`: the tokens that SGLang answers with. `wait_s`: before the first try anew; it doubles with each."""

    def __init__(
        self,
        url: str,
        kind: ServerKind,
        decode: Decode,
        *,
        timeout_s: float,
        max_retries: int,
        wait_s: float = 1.0,
    ) -> None:
        path = f"{url.rstrip('/')}/generate" if kind.is_sglang else f"{api_of(url)}/completions"
        self._url, self._kind, self._decode = path, kind, decode
        self._http = HttpClient(timeout_s=timeout_s)
        self._max_retries, self._wait_s = max_retries, wait_s

    async def complete(
        self,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        seed: int,
        extra_stop_token_ids: tuple[int, ...] = (),
    ) -> Completion:
        """`extra_stop_token_ids`: beside the model's own. Raises `RolloutEngineError` with what the server said."""
        if self._kind.is_sglang:
            body = _ask_sglang(prompt_token_ids, sampling, seed if self._kind.is_seeded else None)
        else:
            body = _ask_openai(
                self._kind.model, prompt_token_ids, sampling, seed, extra_stop_token_ids
            )
        said = ""
        for attempt in range(self._max_retries + 1):
            if attempt:
                await asyncio.sleep(self._wait_s * 2 ** (attempt - 1))
            try:
                response = await self._http.request("POST", self._url, json=body)
            except HttpError as error:
                said = str(error)
                continue
            if response.status == 200:
                return self._read(response)
            said = f"status {response.status}: {response.text[:300]}"
            if response.status not in _AGAIN:
                break
        raise RolloutEngineError(f"{self._url} gave no completion: {said}")

    def _read(self, response: HttpResponse) -> Completion:
        try:
            found = response.json()
            if self._kind.is_sglang:
                ids = [int(token) for token in found["output_ids"]]
                reason = found["meta_info"]["finish_reason"]["type"]
                return Completion(
                    text=self._decode(ids), tokens=len(ids), finish_reason=_reason(reason)
                )
            choice = found["choices"][0]
            return Completion(
                text=str(choice["text"]),
                tokens=int(found["usage"]["completion_tokens"]),
                finish_reason=_reason(choice["finish_reason"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RolloutEngineError(
                f"{self._url} answered with something else than a completion ({error!r}): {response.text[:300]}"
            ) from error

    async def close(self) -> None:
        await self._http.close()


def _ask_sglang(
    prompt_token_ids: tuple[int, ...], sampling: SamplingParams, seed: int | None
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_response_tokens,
        "stop_token_ids": list(sampling.stop_token_ids),
    }
    if seed is not None:
        parameters["sampling_seed"] = seed
    return {"input_ids": list(prompt_token_ids), "sampling_params": parameters}


def _ask_openai(
    model: str,
    prompt_token_ids: tuple[int, ...],
    sampling: SamplingParams,
    seed: int,
    extra_stop_token_ids: tuple[int, ...],
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt_token_ids),
        "max_tokens": sampling.max_response_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if extra_stop_token_ids:  # no part of OpenAI's API, and known to vLLM
        body["stop_token_ids"] = list(extra_stop_token_ids)
    return body


def _reason(said: Any) -> Literal["stop", "length"]:
    if said not in ("stop", "length"):
        raise ValueError(f"it ended by {said!r}")
    return said

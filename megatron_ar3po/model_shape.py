"""`ModelShape`: what the `config.json` of a Hugging Face folder says of a decoder. The one reader of that file.

`read_model_shape` takes any decoder, which is all that servers need; `read_policy_shape` also refuses what the actor
does not compute. It knows Qwen2 / Qwen2.5, Qwen3 (dense) and Llama (3.x rope scaling with its own parameters, SmolLM2
and alike). Plain json: neither torch nor transformers is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ar3po.distributed.layout import ParallelLayout

_VOCAB_MULTIPLE = 128
SUPPORTED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")


def padded_vocab_size(vocab_size: int, tp: int) -> int:
    """As the actor pads an embedding: to a multiple of 128 and of the tensor-parallel size. Large vocabularies are
    multiples of 128 already, and one padding for all layouts lets a checkpoint change its TP.

    >>> padded_vocab_size(300, 2)
    384
    """
    multiple = math.lcm(_VOCAB_MULTIPLE, tp)
    return -(-vocab_size // multiple) * multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.x's frequency scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    path: str  # the folder, for messages
    architecture: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int  # rows of the embedding: a token id must be below it
    max_positions: int
    norm_eps: float
    rope_theta: float
    llama3_rope: Llama3Rope | None
    has_qkv_bias: bool
    has_qk_norm: bool
    is_tied: bool
    # The whole object, for what only one reader asks (stop tokens, what is refused).
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    def check_layout(self, layout: ParallelLayout) -> None:
        """ValueError if TP or PP cannot cut this model."""
        tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
        for what, size in (
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("intermediate_size", self.ffn_size),
            ("hidden_size", self.hidden_size),
        ):
            if size % tp:
                fitting = ", ".join(
                    str(n) for n in range(1, size + 1) if self.fits_tensor_parallel(n)
                )
                raise ValueError(
                    f"actor.tensor_parallel_size={tp} does not divide {what}={size} of {self.path}; use {fitting}."
                )
        if self.num_layers % pp:
            fitting = ", ".join(
                str(n) for n in range(1, self.num_layers + 1) if not self.num_layers % n
            )
            raise ValueError(
                f"actor.pipeline_parallel_size={pp} does not divide num_hidden_layers={self.num_layers} of "
                f"{self.path}; use {fitting}."
            )

    def fits_tensor_parallel(self, tp: int) -> bool:
        sizes = (self.num_heads, self.num_kv_heads, self.ffn_size, self.hidden_size)
        return tp <= self.num_kv_heads and all(size % tp == 0 for size in sizes)

    def fits_server_tensor_parallel(self, tp: int) -> bool:
        """Whether an SGLang server over `tp` GPUs can hold it: query heads are cut evenly, key and value heads are cut
        or repeated evenly (0.5.23: models/qwen2.py:167-177, models/llama.py:183-193), as is the MLP."""
        kv = self.num_kv_heads
        is_kv_even = kv % tp == 0 if kv >= tp else tp % kv == 0
        return self.num_heads % tp == 0 and is_kv_even and self.ffn_size % tp == 0

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def sharded_layer_parameters(self) -> int:
        """Of one layer, what tensor parallelism cuts."""
        qkv = self.q_size + 2 * self.kv_size
        attention = self.hidden_size * (qkv + self.q_size) + (qkv if self.has_qkv_bias else 0)
        return attention + 3 * self.hidden_size * self.ffn_size

    @property
    def whole_layer_parameters(self) -> int:
        """Of one layer, what every tensor-parallel rank holds: the norms."""
        return 2 * self.hidden_size + (2 * self.head_dim if self.has_qk_norm else 0)

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    def padded_vocab_size(self, tp: int) -> int:
        """Rows of an embedding over all tensor-parallel ranks, zero rows behind the vocabulary included."""
        return padded_vocab_size(self.vocab_size, tp)

    @property
    def num_parameters(self) -> int:
        layers = self.num_layers * (self.sharded_layer_parameters + self.whole_layer_parameters)
        embeddings = self.embedding_parameters * (1 if self.is_tied else 2)
        return layers + embeddings + self.hidden_size

    def parameters_of_largest_rank(self, tp: int, pp: int) -> int:
        """The first and the last pipeline stage hold an embedding each; with one stage the same rank holds both."""
        layers = self.num_layers // pp
        held = layers * (self.sharded_layer_parameters // tp + self.whole_layer_parameters)
        tables = 2 if pp == 1 and not self.is_tied else 1
        table = self.padded_vocab_size(tp) // tp * self.hidden_size
        return held + tables * table + self.hidden_size


def read_model_shape(path: str | Path) -> ModelShape:
    """`path`: a Hugging Face folder (`model.path`), or a `config.json` by itself. ValueError for a file that is
    missing, does not parse or lacks a count."""
    settings = _read_settings(path)
    count = _Counts(_describe(path), settings)
    architecture = _read_architecture(_describe(path), settings)
    heads, hidden_size = count("num_attention_heads"), count("hidden_size")
    theta, llama3 = _read_rope(_describe(path), settings)
    is_qwen3 = architecture.startswith("Qwen3")
    return ModelShape(
        path=str(path),
        architecture=architecture,
        num_layers=count("num_hidden_layers"),
        hidden_size=hidden_size,
        ffn_size=count("intermediate_size"),
        num_heads=heads,
        num_kv_heads=count("num_key_value_heads", default=heads),
        head_dim=count("head_dim", default=128 if is_qwen3 else hidden_size // heads),
        vocab_size=count("vocab_size"),
        max_positions=count("max_position_embeddings"),
        norm_eps=_read_norm_eps(_describe(path), settings),
        rope_theta=theta,
        llama3_rope=llama3,
        has_qkv_bias=architecture.startswith("Qwen2"),
        has_qk_norm=is_qwen3,
        is_tied=settings.get("tie_word_embeddings", False),
        settings=settings,
    )


def read_policy_shape(path: str | Path) -> ModelShape:
    """The same for a model that the actor can build; ValueError for any other."""
    shape = read_model_shape(path)
    found, settings = _describe(path), shape.settings
    if settings.get("quantization_config"):
        raise ValueError(
            f"{found} is quantised (quantization_config in config.json), and the actor trains whole weights; name the "
            "checkpoint it was made from."
        )
    if shape.architecture not in SUPPORTED:
        raise ValueError(
            f"{found} is a {shape.architecture} checkpoint, which the actor cannot build; use one of "
            f"{', '.join(SUPPORTED)}."
        )
    wanted: dict[str, object] = {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "mlp_bias": False,
    }
    if not shape.architecture.startswith("Qwen2"):
        wanted["attention_bias"] = False
    for name, value in wanted.items():
        if settings.get(name, value) not in (value, None):
            raise ValueError(
                f"{found} sets {name}={settings[name]!r} in config.json, which the actor does not compute; "
                f"use a checkpoint with {name}={value!r}."
            )
    if (kind := _rope_type(settings)) not in ("default", "llama3"):
        raise ValueError(
            f"{found} asks for rope_type={kind!r}, which the actor does not compute; use a checkpoint "
            "with default or llama3 rope."
        )
    return shape


def _read_architecture(found: str, settings: Mapping[str, Any]) -> str:
    stated: Any = settings.get("architectures")
    if isinstance(stated, list) and stated:
        stated = stated[0]
    if not isinstance(stated, str):
        raise ValueError(
            f"{found}: config.json names no architecture (architectures={settings.get('architectures')!r}), so nothing "
            f'says what its weights are; add it, as in "architectures": ["{SUPPORTED[0]}"], or copy the file again.'
        )
    return stated


def _describe(path: str | Path) -> str:
    """How a message calls it."""
    return str(path) if Path(path).is_file() else f"model.path={path or '(empty)'}"


def _read_settings(path: str | Path) -> dict[str, Any]:
    file = Path(path) if Path(path).is_file() else Path(path) / "config.json"
    if _is_hub_id(path):
        raise ValueError(
            f"model.path={path} is no folder here. If it is a name on the Hugging Face Hub: a run fetches nothing; "
            f"copy the checkpoint with `hf download {path} --local-dir FOLDER` and set model.path=FOLDER."
        )
    if not path or not file.is_file():  # an empty path is not the folder we are in
        raise ValueError(
            f"{_describe(path)} holds no config.json; name the folder of a Hugging Face checkpoint (config.json, "
            "*.safetensors, tokenizer), or make the example's model with: python tools/make_tiny_model.py"
        )
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON, or bytes that are no UTF-8
        raise ValueError(f"{file} is not JSON ({error}); copy the checkpoint again.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds no JSON object; copy the checkpoint again.")
    return settings


def _is_hub_id(path: str | Path) -> bool:
    """OWNER/NAME, where there is no such folder nor one of the owner's name.

    >>> _is_hub_id("Qwen/Qwen2.5-7B"), _is_hub_id("models/Qwen/Qwen2.5-7B"), _is_hub_id("/Qwen2.5-7B")
    (True, False, False)
    """
    owner, slash, name = str(path).partition("/")
    return (
        bool(owner and slash and name)
        and "/" not in name
        and owner[0] not in ".~"
        and not Path(owner).exists()
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    found: str
    settings: Mapping[str, Any]

    def __call__(self, name: str, *, default: int | None = None) -> int:
        value = self.settings.get(name)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{self.found}: config.json has {name}={value!r}, which must be a whole number of at least 1; name "
                "a checkpoint of a decoder-only language model."
            )
        return value


def _read_norm_eps(found: str, settings: Mapping[str, Any]) -> float:
    value = settings.get("rms_norm_eps", 1e-6)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise ValueError(
            f"{found}: config.json has rms_norm_eps={value!r}, which must be above 0 and below 1; copy the file again."
        )
    return float(value)


def _read_rope(found: str, settings: Mapping[str, Any]) -> tuple[float, Llama3Rope | None]:
    """transformers 5 writes `rope_parameters`; before it there were `rope_theta` and `rope_scaling`."""
    try:
        rope = _rope_settings(settings)
        theta = float(rope.get("rope_theta") or settings.get("rope_theta") or 10000.0)
        if _rope_type(settings) != "llama3":
            return theta, None
        return theta, Llama3Rope(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_positions=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise ValueError(
            f"{found}: config.json asks for rope_type=llama3 without {error}; copy the checkpoint again."
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{found}: the rope settings of config.json cannot be read ({error}); copy the checkpoint again."
        ) from error


def _rope_type(settings: Mapping[str, Any]) -> str:
    rope = _rope_settings(settings)
    return rope.get("rope_type") or rope.get("type") or "default"


def _rope_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return dict(settings.get("rope_parameters") or settings.get("rope_scaling") or {})

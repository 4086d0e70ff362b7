"""`actor.megatron`: options of the model under the names and with the types of Megatron's TransformerConfig."""

from __future__ import annotations

import difflib
import typing
from dataclasses import fields
from typing import Any

from megatron.core.transformer import TransformerConfig
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from megatron_ar3po.model_shape import ModelShape

_SET_BY_ACTOR = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "sequence_parallel",
)


def check_megatron_options(further: dict[str, Any], shape: ModelShape) -> None:
    """Raises ValueError for an option that Megatron does not know, that the run sets itself, or that is of another
    type."""
    if further.get("virtual_pipeline_model_parallel_size"):
        raise ValueError(
            "actor.megatron.virtual_pipeline_model_parallel_size: interleaved pipelines are not supported (export and "
            "checkpoints know one chunk of layers a stage); leave it out and use actor.pipeline_parallel_size alone."
        )
    known = {f.name for f in fields(TransformerConfig) if f.init}
    for name, value in further.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"; did you mean {near[0]}?"
                if near
                else "; see megatron.core.transformer.TransformerConfig."
            )
            raise ValueError(
                f"actor.megatron.{name} is no option of Megatron's TransformerConfig{hint}"
            )
        if name in _SET_BY_ACTOR or name == "num_layers":
            where = (
                "the options of actor"
                if name in _SET_BY_ACTOR
                else f"model.path ({shape.num_layers})"
            )
            raise ValueError(
                f"actor.megatron.{name}={value!r} clashes with what comes from {where}; set it there."
            )
        _check_type(name, value)


def _check_type(name: str, value: Any) -> None:
    try:
        adapter = TypeAdapter[Any](typing.get_type_hints(TransformerConfig)[name])
    except PydanticSchemaGenerationError:  # a class of Megatron's own, which a file cannot hold
        raise ValueError(
            f"actor.megatron.{name} takes an object of Megatron's, which no file can name; leave it out."
        ) from None
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(
            f"actor.megatron.{name}={value!r}: {said[0].lower()}{said[1:]}, says Megatron's TransformerConfig."
        ) from None

"""The data sets that `ar3po data prepare` knows by name: where they lie on the Hugging Face hub, what their files are
called in a local folder, and how a row of theirs is read.

A revision is a commit of the repository, so that the same rows come in years to come; where none is pinned, that of the
day is taken, and the provenance file says which it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ar3po.data.row_files import get_field
from megatron_ar3po.preparation.upstream_rows import (
    read_boxed_solution,
    read_gsm8k_answer,
    strip_dapo_frame,
)

MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFiles:
    """Files of a dataset repository on the hub."""

    repo: str
    files: tuple[str, ...]
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The first field that a row has of `prompt` and of `answer` is taken; `read_prompt` and `read_answer` make of its
    value what the run reads. `keep`: other fields that stay."""

    name: str
    about: str
    hub: HubFiles | None
    local: tuple[str, ...] = ()  # names of its file in a folder, without the ending
    prompt: tuple[str, ...] = ("problem", "question", "prompt")
    answer: tuple[str, ...] = ("answer",)
    ids: tuple[str, ...] = ("id",)
    keep: tuple[str, ...] = ()
    read_prompt: Callable[[Any], Any] = lambda value: value
    read_answer: Callable[[Any], Any] = lambda value: value
    is_wanted: Callable[[Row], str] = lambda row: ""  # why a row is left out; "" keeps it


def _why_not_open_text_english(row: Row) -> str:
    """Of OlympiadBench, which has proofs, pictures, physics and Chinese in other configurations."""
    for field, wanted in (
        ("question_type", "Open-ended"),
        ("modality", "Text-only"),
        ("language", "English"),
        ("subject", "Math"),
    ):
        found = get_field(row, field)
        if isinstance(found, str) and found != wanted:
            return f"{field} {found}"
    return ""


_ALL = (
    DataSet(
        name="dapo_math",
        about="DAPO-Math-17k in English, each problem once, without its prefix and suffix; for training",
        hub=HubFiles(repo="BytedTsinghua-SIA/DAPO-Math-17k", files=("data/dapo-math-17k.parquet",)),
        local=("dapo_math", "dapo-math-17k"),
        prompt=("prompt.0.content", "prompt"),
        answer=("reward_model.ground_truth", "answer"),
        ids=("extra_info.index", "id"),
        read_prompt=strip_dapo_frame,
    ),
    DataSet(
        name="math_train",
        about="the training problems of MATH; for training",
        hub=HubFiles(
            repo="EleutherAI/hendrycks_math",
            revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
            files=tuple(f"{name}/train-00000-of-00001.parquet" for name in MATH_SUBJECTS),
        ),
        local=("math_train", "math_train_7k"),
        answer=("answer", "solution"),
        keep=("level", "type"),
        read_answer=read_boxed_solution,
    ),
    DataSet(
        name="gsm8k_train",
        about="the training problems of GSM8K; for training",
        hub=HubFiles(
            repo="openai/gsm8k",
            revision="740312add88f781978c0658806c59bc2815b9866",
            files=("main/train-00000-of-00001.parquet",),
        ),
        local=("gsm8k_train",),
        read_answer=read_gsm8k_answer,
    ),
    DataSet(
        name="gsm8k_test",
        about="the test problems of GSM8K",
        hub=HubFiles(
            repo="openai/gsm8k",
            revision="740312add88f781978c0658806c59bc2815b9866",
            files=("main/test-00000-of-00001.parquet",),
        ),
        local=("gsm8k_test",),
        read_answer=read_gsm8k_answer,
    ),
    DataSet(
        name="math500",
        about="500 test problems of MATH",
        hub=HubFiles(
            repo="HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            files=("test.jsonl",),
        ),
        local=("math500",),
        ids=("unique_id", "id"),
        keep=("level", "subject"),
    ),
    DataSet(
        name="minerva_math",
        about="272 problems of MIT courses",
        hub=HubFiles(repo="math-ai/minervamath", files=("test.jsonl",)),
        local=("minerva_math",),
    ),
    DataSet(
        name="olympiadbench",
        about="OlympiadBench's open mathematics problems in English, text only",
        hub=HubFiles(
            repo="Hothan/OlympiadBench",
            revision="91184b52131e7fc9455fef848035173aea8cc01a",
            files=("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",),
        ),
        local=("olympiadbench", "olympiadbench_en"),
        prompt=("question", "problem"),
        answer=("final_answer", "answer"),
        keep=("answer_type", "is_multiple_answer", "unit", "error"),
        is_wanted=_why_not_open_text_english,
    ),
    DataSet(
        name="aime24",
        about="AIME 2024, I and II",
        hub=HubFiles(
            repo="HuggingFaceH4/aime_2024",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            files=("data/train-00000-of-00001.parquet",),
        ),
        local=("aime24",),
    ),
    DataSet(
        name="aime25",
        about="AIME 2025, I and II",
        hub=HubFiles(
            repo="math-ai/aime25",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
            files=("test.jsonl",),
        ),
        local=("aime25",),
    ),
    DataSet(
        name="amc23",
        about="40 problems of the AMC 12, 2022 and 2023",
        hub=HubFiles(
            repo="math-ai/amc23",
            revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
            files=("test-00000-of-00001.parquet",),
        ),
        local=("amc23",),
    ),
    DataSet(
        name="svamp", about="SVAMP's word problems; from a local file", hub=None, local=("svamp",)
    ),
)
DATA_SETS = {data_set.name: data_set for data_set in _ALL}


def find_data_set(name: str) -> DataSet:
    """Raises ValueError with the nearest name for one that it does not know."""
    if name not in DATA_SETS:
        (near,) = difflib.get_close_matches(name, DATA_SETS, n=1, cutoff=0.0)
        raise ValueError(
            f"{name} is no data set that `ar3po data prepare` knows, and no file; the nearest name is {near}. It knows "
            f"{', '.join(DATA_SETS)}; a file of your own is given by its path."
        )
    return DATA_SETS[name]

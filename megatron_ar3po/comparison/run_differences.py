"""What differs between the runs of a comparison beside what is to be compared: verifier, template, data, model and
engine decide what an accuracy means. And the options that differ, which are the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ar3po.comparison.compared_runs import ComparedRun, RunGroup

# What it is, and how names of options ("section.option") and facts ("option (what)") that belong to it begin.
TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("verifier", ("rewards.",)),
    (
        "template",
        ("model.path (chat template)", "model.path (tokenizer)", "data.template", "data.system"),
    ),
    ("data", ("data.", "evaluation.")),
    ("model", ("model.",)),
    ("engine", ("packages (", "servers.", "run.deterministic")),
)
# Paths: what they hold is a fact, where they lie is not.
_PLACES = ("data.path", "evaluation.path", "model.path", "model.megatron_path")
_SCHEDULE = ("evaluation.every_steps", "evaluation.every_responses")  # when, not what


def describe_differences(groups: Sequence[RunGroup]) -> list[str]:
    """A sentence for each of the topics in which a run is unlike the first one."""
    runs = [run for group in groups for run in group.runs]
    first, lines = runs[0], []
    for topic, beginnings in TOPICS:
        differing: dict[str, list[str]] = {}
        for run in runs[1:]:
            for name, phrase in differences(first, run):
                if topic_of(name) == topic:
                    differing.setdefault(phrase, []).append(run.name)
        lines += [
            f"the {topic} differs: {phrase} in {', '.join(names)}, beside {first.name}"
            for phrase, names in differing.items()
        ]
        assert beginnings
    lines += [
        f"the training pass rate of {run.name} is left out, for it was sampled with {run.untold}"
        for run in runs
        if run.untold
    ]
    without = [run.name for run in runs if not run.facts]
    if without:
        lines.append(
            f"{', '.join(without)} tell nothing of what their files held (no run_facts.json): whether data, model, "
            "template and verifier are the same is not known"
        )
    return lines


def describe_options(groups: Sequence[RunGroup]) -> list[tuple[str, list[str]]]:
    """(option, its value in each of the variants), of those that differ and belong to none of the topics."""
    firsts = [group.runs[0] for group in groups]
    names = dict.fromkeys(name for run in firsts for name in run.options)
    found: list[tuple[str, list[str]]] = []
    for name in names:
        values = [run.options.get(name) for run in firsts]
        if not topic_of(name) and any(value != values[0] for value in values):
            found.append((name, [str(value) for value in values]))
    return found


def differences(one: ComparedRun, other: ComparedRun) -> Iterator[tuple[str, str]]:
    """(name, phrase). A fact that only one of the two knows is none."""
    for name, value in other.options.items():
        if name not in (*_PLACES, *_SCHEDULE) and value != one.options.get(name):
            yield name, f"{name} is {value!r}, not {one.options.get(name)!r}"
    for name, value in other.facts.items():
        there = one.facts.get(name)
        if there is not None and there != value:
            yield name, f"{name} is {value}, not {there}"


def topic_of(name: str) -> str:
    """
    >>> topic_of("model.path (chat template)"), topic_of("model.path (weights)"), topic_of("actor.learning_rate")
    ('template', 'model', '')
    """
    for topic, beginnings in TOPICS:
        if name.startswith(beginnings):
            return topic
    return ""

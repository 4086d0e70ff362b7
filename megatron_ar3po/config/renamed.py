"""Options that have another name today. An option has one name: an old one is refused with the new one in the sentence.

`ar3po upgrade` reads the same table to bring old files over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

# Old name -> today's. The values an option takes are the same under both.
RENAMED: dict[str, str] = {
    "rollout.deterministic": "run.deterministic",
    "rollout.max_concurrent_requests": "servers.max_concurrent_requests",
    "rollout.routing": "servers.routing",
    "rollout.servers_per_replica": "servers.servers_per_replica",
    "rollout.server_urls": "servers.urls",
    "rollout.server_start_timeout_s": "servers.start_timeout_s",
    "rollout.request_timeout_s": "servers.request_timeout_s",
    "rollout.hang_timeout_s": "servers.hang_timeout_s",
    "rollout.max_retries": "servers.max_retries",
    "rollout.max_server_restarts": "servers.max_server_restarts",
    "rollout.port": "servers.port",
    "rollout.max_total_tokens": "servers.max_total_tokens",
    "rollout.sglang": "servers.sglang",
    "reuse.logprob_band": "reuse.max_logprob_drift",
}


def refuse_renamed_options(values: Mapping[str, Any]) -> None:
    """Raises ValueError with a line for each old name in `values`, sections with their options.

    >>> refuse_renamed_options({"rollout": {"port": 30000}})
    Traceback (most recent call last):
    ValueError: rollout.port is called servers.port now; write servers.port=30000.
    """
    lines = [
        f"{old} is called {RENAMED[old]} now; write {' '.join(_words(RENAMED[old], value))}."
        for old, value in renamed_options(values)
    ]
    if lines:
        raise ValueError("\n".join(lines))


def renamed_options(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The old names in `values`, dotted, each with its value."""
    for section, options in values.items():
        for old, value in _flatten(section, options):
            if old in RENAMED:
                yield old, value


def rename_options(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`values`, sections with their options, under today's names.

    >>> rename_options({"rollout": {"num_stages": 2, "port": 30000}})
    {'rollout': {'num_stages': 2}, 'servers': {'port': 30000}}
    """
    out: dict[str, dict[str, Any]] = {}
    for section, options in values.items():
        for name, value in _flatten(section, options):
            new_section, _, option = RENAMED.get(name, name).partition(".")
            out.setdefault(new_section, {})[option] = value
    return out


def _flatten(section: object, options: Any) -> Iterator[tuple[str, Any]]:
    """`section`: a name, if the file is right; a YAML key may be a number as well."""
    section = str(section)
    if isinstance(options, Mapping) and "." not in section:
        for name, value in cast("Mapping[str, Any]", options).items():
            yield f"{section}.{name}", value
    else:
        yield section, options  # a file may hold the dotted name itself


def _words(name: str, value: Any) -> list[str]:
    """As on the command line.

    >>> _words("servers.sglang", {"mem_fraction_static": 0.7, "log_level": "error"})
    ['servers.sglang.mem_fraction_static=0.7', 'servers.sglang.log_level=error']
    """
    if isinstance(value, Mapping) and value:
        inner = cast("Mapping[str, Any]", value)
        return [word for key, part in inner.items() for word in _words(f"{name}.{key}", part)]
    shown: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return [name + "=" + shown.removesuffix("...\n").strip()]

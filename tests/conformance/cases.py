"""The table of cases in cases.toml, and the words it is written in.

`broker` is who answers: `live` (the default: a broker on a Unix socket, before a KMS that can be told to lie), `tcp`
and `mtls` (the same by other ways), `scripted` (a broker that fails and lies as told), `silent` (accepts and never
answers) or `nobody`. `settings` are sections of the live broker's settings, `key` what `$key` is, `kms` what KMS is to
answer wrongly (operation, fault, how often), `failures`, `lie` and `stalled` what the scripted broker does by RPC.

A step is a request to the driver as DRIVER.md has it, with `$names` for what is known before or was saved by `as`, and:
`ok` or `error`, of which every field must be as told (`*`: not empty); `differs`, fields that must not be;
`retry_after_ms`, the bounds of the error's; `kms_ahead_seconds`, by which KMS's clock is put forward before. `lies`
stand for a get and an import under each of them, both of which must be refused.

In the end `calls` are what KMS, or the scripted broker, was asked; `imported` whether the key holds `$material`;
`takes_ms` the least time that all of it takes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of the table."""

    name: str
    broker: str = "live"
    client: str = "alice"
    settings: dict[str, Any] = field(default_factory=dict)
    key: dict[str, Any] = field(default_factory=dict)
    kms: list[tuple[str, str, int]] = field(default_factory=list)
    single_use: bool = False
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lie: str = ""
    lies: list[str] = field(default_factory=list)
    stalled: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    imported: bool = False
    takes_ms: int = 0


def load() -> list[Case]:
    """The table; a word it does not know is an error."""
    with Path(__file__).with_name("cases.toml").open("rb") as file:
        return [Case(**row) for row in tomllib.load(file)["case"]]


def filled(value: Any, known: dict[str, Any]) -> Any:
    """A value with every `$name` and `$name.field` in it replaced."""
    if isinstance(value, dict):
        return {name: filled(inner, known) for name, inner in value.items()}
    if isinstance(value, str) and value.startswith("$"):
        name, _, inner = value[1:].partition(".")
        return known[name][inner] if inner else known[name]
    return value


def mismatches(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """What is not as it was to be, in words."""
    found = []
    for name, value in expected.items():
        is_like = bool(actual.get(name)) if value == "*" else actual.get(name) == value
        if isinstance(value, dict):
            is_like = not mismatches(value, actual.get(name, {}))
        if not is_like:
            found.append(f"{name} is {actual.get(name)!r}, not {value!r}")
    return found


STEP_WORDS = frozenset({"as", "ok", "error", "differs", "retry_after_ms", "kms_ahead_seconds"})
"""Words of a step that are for the table, not for the driver."""

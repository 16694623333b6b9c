"""Who may do what to which key: patterns over names, matched as a whole, a `*` never reaching past its own place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keybroker.model import Operation

if TYPE_CHECKING:
    from keybroker.model import Caller, KeyArn


class NamePattern:
    """A name in which `*` stands for any characters of one place.

    Places are what `/` and `:` part: `spiffe://corp.example/ns/*/sa/web` matches any one namespace and nothing deeper.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._expression = re.compile("[^/:]+".join(re.escape(part) for part in text.split("*")), re.ASCII)

    def matches(self, name: str) -> bool:
        """Whether the whole name fits."""
        return self._expression.fullmatch(name) is not None

    def __repr__(self) -> str:
        return f"NamePattern({self.text!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The right of some callers to some operations on some keys.

    Attributes:
        caller: a pattern of caller names.
        keys: patterns of key ARNs.
        operations: what is granted.
    """

    caller: NamePattern
    keys: tuple[NamePattern, ...]
    operations: frozenset[Operation]

    def allows(self, caller: Caller, operation: Operation, key: KeyArn) -> bool:
        """Whether this grant covers the request."""
        return (
            operation in self.operations
            and self.caller.matches(caller.name)
            and any(pattern.matches(str(key)) for pattern in self.keys)
        )


ANY_KEY = NamePattern("arn:*:kms:*:*:key/*")


def local_grants(names: frozenset[str]) -> tuple[Grant, ...]:
    """What holds where the settings name no callers: whom a local listener lets in may do all but delete."""
    operations = frozenset(Operation) - {Operation.DeleteImportedKeyMaterial}
    return tuple(Grant(caller=NamePattern(name), keys=(ANY_KEY,), operations=operations) for name in sorted(names))

"""Who may do what to which key: patterns over names, matched as a whole, a `*` never reaching past its own place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keybroker.model import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable

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


_ANY_KEY = "arn:*:kms:*:*:key/*"
_WITH_GET = frozenset({Operation.DiscardParameters, Operation.GetKeyImportStatus})
_ALL_BUT_DELETE = frozenset(Operation) - {Operation.DeleteImportedKeyMaterial}


def grants_of(
    named: Iterable[tuple[str, Iterable[str], Iterable[Operation]]], *, local_callers: Iterable[str]
) -> tuple[Grant, ...]:
    """The grants of the settings.

    Args:
        named: of each [[callers]]: id, keys, operations. Whoever may get sets may discard them, and look at the key.
        local_callers: the names that local listeners give, who may do all but delete where no callers are named.
    """
    rows = list(named) or [(name, (_ANY_KEY,), _ALL_BUT_DELETE) for name in sorted(local_callers)]
    return tuple(
        Grant(
            caller=NamePattern(caller),
            keys=tuple(map(NamePattern, keys)),
            operations=frozenset(operations)
            | (_WITH_GET if Operation.GetParametersForImport in operations else frozenset()),
        )
        for caller, keys, operations in rows
    )

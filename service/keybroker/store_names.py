"""What things are called in the store: by hashes, which show no ARN, and in one cluster slot for each key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keybroker.model import KeyArn

ID_LENGTH = 32


def set_id(import_token: bytes) -> str:
    """What a set is called where it must not be told: 32 hexadecimal digits of its token's SHA-256."""
    return hashlib.sha256(import_token).hexdigest()[:ID_LENGTH]


def key_tag(key: KeyArn) -> str:
    """What a key is called, and the cluster's hash tag of its names."""
    return _tag(str(key))


def sets_of(key: KeyArn) -> str:
    """A hash of its sets by wrapping, and which is the newest."""
    return f"keybroker:{{{key_tag(key)}}}:sets"


def ended_of(key: KeyArn) -> str:
    """A sorted set of the sets that have been ended."""
    return f"keybroker:{{{key_tag(key)}}}:ended"


def lease_of(key: KeyArn) -> str:
    """A string of who is asking KMS for a set."""
    return f"keybroker:{{{key_tag(key)}}}:lease"


def quota_of(account: str, region: str) -> list[str]:
    """The time of the next token, who waits for one, and whether KMS has throttled."""
    tag = _tag("quota", account, region)
    return [f"keybroker:{{{tag}}}:quota", f"keybroker:{{{tag}}}:waiting", f"keybroker:{{{tag}}}:slow"]


def _tag(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

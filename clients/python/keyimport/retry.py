"""Which failed call is made again, and after how long: one rule for every method of the client."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import grpc

from keyimport.errors import OutcomeUnknown

if TYPE_CHECKING:
    from keyimport.errors import KeyImportError

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
# Many callers that were refused at once do not return at once.
_LENGTHENED: Final = 0.2
_RANDOM: Final = random.SystemRandom()
# How a broker that restarts ends calls. The caller's own cancellation is a CancelledError, and never comes here.
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


def delay_before_retry(error: KeyImportError, *, attempt: int, changes_key: bool) -> float | None:
    """How long to wait before the same call is made again.

    Args:
        error: what the call ended with.
        attempt: how many calls have been made, 1 or more.
        changes_key: whether the call changes the key, so that only the broker can say that it may be made again.

    Returns:
        Seconds, lengthened at random by up to a fifth; None where the call is not made again.
    """
    delay = _delay(error, attempt, changes_key=changes_key)
    return None if delay is None else delay * (1 + _RANDOM.uniform(0, _LENGTHENED))


def _delay(error: KeyImportError, attempt: int, *, changes_key: bool) -> float | None:
    if isinstance(error, OutcomeUnknown):
        return None
    # A delay is the broker's word only beside a reason of the broker's; a proxy may send RetryInfo as well.
    if error.reason:
        # No delay at all would be a loop as fast as the connection.
        return None if error.retry_after is None else max(error.retry_after.total_seconds(), _FIRST_DELAY)
    if error.code in _AWAY and not changes_key:
        return min(_FIRST_DELAY * 2.0 ** min(attempt - 1, 10), _LONGEST_DELAY)
    return None

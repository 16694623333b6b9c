"""Which keys' sets may be in callers' hands, where a newer set of the same key might end them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keybroker.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keybroker.clock import Clock
    from keybroker.fetches import Entry
    from keybroker.model import KeyArn, Slot

_REMEMBERED = 100_000
_NOTHING = 0, 0.0


class InHands:
    """The newest of each key's sets that callers may hold: by the hash of its token, until it expires."""

    def __init__(self, *, supersede: bool, clock: Clock) -> None:
        """Nothing is in anyone's hands.

        Args:
            supersede: whether a newer set ends all older ones of the key, and not those of its slot alone.
            clock: monotonic time.
        """
        self._supersede = supersede
        self._clock = clock
        self._held: Lru[KeyArn | Slot, tuple[int, float]] = Lru(_REMEMBERED)

    def note(self, entry: Entry) -> None:
        """A set is handed out, here or elsewhere."""
        # Of those that a newer one ends, none but the newest is ever handed out.
        self._held[self._ended_with(entry.parameters.slot)] = hash(entry.parameters.import_token), entry.expires

    def forget(self, key: KeyArn, slots: Iterable[Slot], import_token: bytes) -> None:
        """Whoever holds the set with this token can use it no more; `slots` are those it is known to be of."""
        places: tuple[KeyArn | Slot, ...] = (key, *slots)
        for which in places:
            if self._held.get(which, _NOTHING)[0] == hash(import_token):
                del self._held[which]

    def any_ended_by_one_for(self, slot: Slot) -> bool:
        """Whether a newer set for the slot might end one that a caller holds."""
        return self._clock.monotonic() < self._held.get(self._ended_with(slot), _NOTHING)[1]

    def _ended_with(self, slot: Slot) -> KeyArn | Slot:
        return slot.key if self._supersede else slot

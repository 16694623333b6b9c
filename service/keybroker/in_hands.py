"""Which keys' sets may be in callers' hands, where a newer set of the same key might end them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keybroker.clock import Clock
    from keybroker.fetches import Entry
    from keybroker.model import KeyArn, Slot

_NOTHING = 0, 0.0


class InHands:
    """The newest set that callers may hold, of each key that is prefetched: its token's hash, and when it expires."""

    def __init__(self, *, supersede: bool, clock: Clock) -> None:
        """Nothing is in anyone's hands.

        Args:
            supersede: whether a newer set ends all older ones of the key, and not those of its slot alone.
            clock: monotonic time.
        """
        self._supersede = supersede
        self._clock = clock
        self._followed: set[KeyArn] = set()
        self._held: dict[KeyArn | Slot, tuple[int, float]] = {}

    def follow(self, key: KeyArn) -> None:
        """Notes what becomes of this key's sets from now on; of other keys nobody asks."""
        self._followed.add(key)

    def note(self, entry: Entry) -> None:
        """A set is handed out, here or elsewhere."""
        if entry.parameters.slot.key not in self._followed:
            return
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

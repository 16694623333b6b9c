"""What is in a Redis, whatever wrote it: to look at, to alter, to save and to put back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

_SET_BYTES = 512  # a sealed set is larger: a token alone has 1792 bytes here


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A string, or one field of a hash."""

    name: bytes
    field: bytes | None
    content: bytes

    @property
    def holds_a_set(self) -> bool:
        """Whether it is long enough for one."""
        return len(self.content) > _SET_BYTES

    async def write(self, client: Any, content: bytes) -> None:
        """Puts something else in its place, to expire when it would have; nothing where a list is by now."""
        with suppress(ResponseError):
            if self.field is None:
                await client.set(self.name, content, keepttl=True)
            else:
                await client.hset(self.name, self.field, content)

    async def write_another_type(self, client: Any) -> None:
        """Puts a list in its place."""
        await client.delete(self.name)
        await client.rpush(self.name, self.content)


async def values(client: Any) -> list[Value]:
    """Every string and every field of a hash, in the order of their names."""
    found = []
    for name in sorted([name async for name in client.scan_iter(count=1000)]):
        kind = await client.type(name)
        if kind == b"string":
            found.append(Value(name=name, field=None, content=await client.get(name) or b""))
        elif kind == b"hash":
            fields = await client.hgetall(name)
            found += [Value(name=name, field=key, content=fields[key]) for key in sorted(fields)]
    return found


async def save(client: Any) -> dict[bytes, tuple[int, bytes]]:
    """All there is, with the milliseconds it has left."""
    names = [name async for name in client.scan_iter(count=1000)]
    return {
        name: (max(0, await client.pttl(name)), dumped)
        for name in names
        if (dumped := await client.dump(name)) is not None
    }


async def put_back(client: Any, saved: dict[bytes, tuple[int, bytes]]) -> None:
    """Puts what was saved in the place of what is there."""
    for name, (milliseconds, dumped) in saved.items():
        await client.restore(name, milliseconds, dumped, replace=True)

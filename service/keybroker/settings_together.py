"""What is wrong with settings that are good each by itself, and not together."""

from __future__ import annotations

import ipaddress
import itertools
import posixpath
from collections import Counter
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.model import Home, KeyArn, WrappingChoice
from keybroker.policy import Policy
from keybroker.regions import partition_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keybroker.settings_kms import KmsSettings, ParametersSettings, PolicySettings
    from keybroker.settings_listeners import Listener, OpsSettings
    from keybroker.settings_upkeep import PrefetchSettings, WatchSettings

_LOOPBACK = frozenset({"127.0.0.1", "::1"})


def address_faults(listeners: Sequence[Listener], ops: OpsSettings | None) -> Iterator[str]:
    """Sockets of which only one could be bound."""
    named = [(f"listeners[{index}].address", _sockets(listener)) for index, listener in enumerate(listeners)]
    if ops:
        named.append(("ops.address", _tcp(*ops.host_and_port)))
    for (first, one), (second, other) in itertools.combinations(named, 2):
        if one & other:
            yield f"{second}: is the same as {first}"


def _sockets(listener: Listener) -> frozenset[tuple[str, int]]:
    if listener.socket_path:
        return frozenset({(posixpath.normpath(listener.socket_path), 0)})
    return _tcp(*listener.host_and_port)


def _tcp(host: str, port: int) -> frozenset[tuple[str, int]]:
    """Host names are compared as such, but for the one that always means the same."""
    if port == 0:  # any that is free
        return frozenset()
    hosts = _LOOPBACK if host == "localhost" else frozenset({host})
    return frozenset((_canonical(each), port) for each in hosts)


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


class Keys:
    """What is said of keys, held against where the broker is at home and what its policy allows."""

    def __init__(self, kms: KmsSettings, policy: PolicySettings) -> None:
        self._kms = kms
        # Which account is the broker's own, STS says; the settings may.
        self._home = Home(partition=partition_of(kms.regions[0]), account=kms.account or "", regions=kms.regions)
        self._policy = Policy(
            algorithms=frozenset(policy.wrapping_algorithms),
            key_specs=frozenset(policy.wrapping_key_specs),
            grants=(),
            version="",
        )

    def policy_faults(self) -> Iterator[str]:
        """A policy that allows nothing."""
        try:
            self._policy.require_allowed(WrappingChoice(), self._home.partition)
        except errors.WrappingUnsuitable:
            yield (
                "policy: of wrapping_algorithms and wrapping_key_specs no two go together in the Regions of"
                f" {self._home.partition}"
            )

    def watch_faults(self, watch: WatchSettings) -> Iterator[str]:
        """Keys that could never be looked at."""
        for name, key_id in watch.keys.items():
            if fault := self._fault(key_id):
                yield f"watch.keys.{name}: {fault}"

    def prefetch_faults(self, prefetch: Sequence[PrefetchSettings], parameters: ParametersSettings) -> Iterator[str]:
        """Keys whose sets could never be had, or not all be kept: those would be fetched for ever."""
        places: dict[tuple[str, str], int] = {}
        kept: Counter[str] = Counter()
        for index, each in enumerate(prefetch):
            path = f"prefetch[{index}]"
            if fault := self._fault(each.key_id):
                yield f"{path}.key_id: {fault}"
                continue
            key = KeyArn.parse(each.key_id, self._home)
            first = places.setdefault((key.region, key.key_id), index)
            if first != index and parameters.supersede:
                yield (
                    f"{path}.key_id: is prefetch[{first}]'s: their sets would end each other, unless"
                    " parameters.supersede is false"
                )
            kept[key.region] += 1
            if kept[key.region] == parameters.max_entries + 1:
                yield f"{path}.key_id: is one more than parameters.max_entries keeps sets of in {key.region}"
            yield from self._wrapping_faults(path, each)

    def _fault(self, key_id: str) -> str | None:
        try:
            key = KeyArn.parse(key_id, self._home)
        except errors.AliasNotAllowed:
            return "is an alias, which may come to mean another key; write the key id or ARN"
        except errors.KeyIdMalformed:
            return "is no key id, such as 1234abcd-12ab-34cd-56ef-1234567890ab, and no key ARN"
        if key.region not in self._kms.regions or key.partition != self._home.partition:
            return f"is a key of {key.partition}, {key.region}, which is not in kms.regions"
        if self._kms.account and key.account != self._kms.account:
            return f"is a key of the account {key.account}, and not of kms.account"
        return None

    def _wrapping_faults(self, path: str, each: PrefetchSettings) -> Iterator[str]:
        choice = WrappingChoice(algorithm=each.wrapping_algorithm, key_spec=each.wrapping_key_spec)
        try:
            self._policy.require_allowed(choice, self._home.partition)
        except errors.WrappingUnsuitable:
            yield f"{path}: its wrapping_algorithm and wrapping_key_spec do not go together, or not by [policy]"
        except errors.InvalidRequest as error:
            yield f"{path}.{error.field}: is not among what [policy] allows in {self._home.partition}"

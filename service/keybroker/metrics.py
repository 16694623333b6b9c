"""Every metric's name, meaning and labels. No label is ever a key or a caller: those are in the audit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.certificate_not_after_seconds = Gauge(
            "keybroker_certificate_not_after_seconds",
            "When a listener's server certificate expires, in seconds since 1970.",
            ["listener"],
            registry=self.registry,
        )
        self.store_failures = Counter(
            "keybroker_store_failures", "Exchanges with the store that failed.", registry=self.registry
        )
        self.store_away = Gauge(
            "keybroker_store_away", "1 while the store is left alone because it failed.", registry=self.registry
        )
        self.store_rejected_entries = Counter(
            "keybroker_store_rejected_entries",
            "Entries of the store that did not open or were unsound: it has been written by another, or damaged.",
            registry=self.registry,
        )
        self.certificate_reload_failures = Counter(
            "keybroker_certificate_reload_failures",
            "Changes of a listener's certificate files that could not be used.",
            ["listener"],
            registry=self.registry,
        )

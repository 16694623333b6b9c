"""Every metric's name, meaning and labels. No label is ever a key or a caller: those are in the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from keybroker.errors import (
    BrokerCredentials,
    CallerRateExceeded,
    KmsBadResponse,
    KmsDeniedBroker,
    KmsThrottled,
    OutcomeUnknown,
    QuotaQueueFull,
    QuotaWaitExceedsDeadline,
)
from keyimport.v1 import key_import_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHED = frozenset(each.reason for each in (QuotaWaitExceedsDeadline, QuotaQueueFull, CallerRateExceeded))
_OPERATIONS = ("DescribeKey", "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial")
_ALARMING = (KmsBadResponse, OutcomeUnknown, KmsThrottled, BrokerCredentials, KmsDeniedBroker)
_SERVICE = pb.DESCRIPTOR.services_by_name["KeyImportService"]
_CALL = ["grpc_type", "grpc_service", "grpc_method"]
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900)
_HOURS = tuple(3600.0 * hours for hours in (0.5, 1, 2, 4, 8, 12, 16, 20, 24))


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # By the names that every Prometheus client gives them: process_* where /proc can be read, python_info.
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # What arrives. The names are those that gRPC's other servers have.
        self.started = self._counter("grpc_server_started", "RPCs begun.", _CALL)
        self.handled = self._counter("grpc_server_handled", "RPCs ended, by status.", [*_CALL, "grpc_code"])
        self.handling = self._histogram("grpc_server_handling_seconds", "Time from begin to end of RPCs.", _LONG, _CALL)
        self.parameters = self._counter(
            "keybroker_parameters", "Parameter sets handed out, by where they came from.", ["source"]
        )
        self.joined = self._counter("keybroker_joined", "Requests that joined a fetch under way for the same set.")
        self.shed = self._counter("keybroker_shed", "Requests refused for the load, by reason.", ["reason"])
        self.audit_failures = self._counter(
            "keybroker_audit_failures", "Audit lines that could not be written; their requests were refused."
        )
        self.settings_reload_failures = self._counter(
            "keybroker_settings_reload_failures", "Settings that SIGHUP did not take; the last good ones are kept."
        )
        self.set_remaining = self._histogram(
            "keybroker_set_remaining_seconds", "How long the sets handed out were still valid.", _HOURS
        )
        self.cached_sets = self._gauge("keybroker_cached_sets", "Parameter sets in the cache.", ["region"])
        # KMS and its quota.
        self.kms_requests = self._counter(
            "keybroker_kms_requests", "Requests to KMS; the outcome is ok or the reason.", ["operation", "outcome"]
        )
        self.kms_request_seconds = self._histogram(
            "keybroker_kms_request_seconds", "How long KMS took to answer.", _SHORT, ["operation"]
        )
        self.kms_away = self._gauge(
            "keybroker_kms_away", "1 while an operation of KMS is left alone because it failed.", ["region"]
        )
        self.quota_tokens = self._gauge(
            "keybroker_quota_tokens", "Tokens of KMS's quota to be had at once, 0 to 1.", ["region"]
        )
        self.quota_waiting = self._gauge("keybroker_quota_waiting", "Requests in the line for KMS's quota.", ["region"])
        self.quota_wait_seconds = self._histogram(
            "keybroker_quota_wait_seconds", "How long requests waited in the line for their token.", _LONG
        )
        self.credentials_expiry_seconds = self._gauge(
            "keybroker_credentials_expiry_seconds",
            "When the broker's AWS credentials expire, in seconds since 1970; 0 if they do not.",
        )
        # The fleet's store.
        self.store_failures = self._counter("keybroker_store_failures", "Exchanges with the store that failed.")
        self.store_away = self._gauge("keybroker_store_away", "1 while the store is left alone because it failed.")
        self.store_rejected_entries = self._counter(
            "keybroker_store_rejected_entries",
            "Entries of the store that did not open or were unsound: it has been written by another, or damaged.",
        )
        # What expires, and the process itself.
        self.certificate_not_after_seconds = self._gauge(
            "keybroker_certificate_not_after_seconds",
            "When a listener's server certificate expires, in seconds since 1970.",
            ["listener"],
        )
        self.certificate_reload_failures = self._counter(
            "keybroker_certificate_reload_failures",
            "Changes of a listener's certificate files that could not be used.",
            ["listener"],
        )
        self.watched_material_seconds = self._gauge(
            "keybroker_watched_material_seconds",
            "Seconds until a watched key's material expires; 0: it has none or will be deleted, +Inf: it never does.",
            ["name"],
        )
        self.watch_failures = self._counter("keybroker_watch_failures", "Looks at a watched key that failed.", ["name"])
        self.event_loop_lag_seconds = self._histogram(
            "keybroker_event_loop_lag_seconds", "How late the event loop ran what was due.", _SHORT
        )
        self.tasks = self._gauge("keybroker_tasks", "Tasks in the event loop: about one for each request under way.")

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """What alerts wait for is there before it happens: Prometheus sees no increase in a series that just came."""
        for operation in _OPERATIONS:
            for error in _ALARMING:
                self.kms_requests.labels(operation, error.reason)
        for method in _SERVICE.methods:
            kind = "server_stream" if method.server_streaming else "unary"
            for code in ("Internal", "Unknown"):
                self.handled.labels(kind, _SERVICE.full_name, method.name, code)
        for reason in _SHED:
            self.shed.labels(reason)

    def note_refusal(self, reason: str | None) -> None:
        """Counts a request that ended so, if it was refused for the load."""
        if reason in _SHED:
            self.shed.labels(reason).inc()

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

"""The alerts are well formed, shown to fire when they should and not before, and told what to do about."""

from __future__ import annotations

import re
import shutil
import subprocess

from keybroker.metrics import Metrics
from tests.operators.given import ALERTS, ALERTS_TEST, RUNBOOK, alert_names

_CASE = re.compile(
    r"eval_time: (\d+)m\n +exp_samples:(.*?)(?=\n +- expr|\n +alert_rule_test|\n +#|\n +- interval|\Z)", re.DOTALL
)


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("promtool") or "promtool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 -- our own


def test_the_rules_are_well_formed() -> None:
    """Prometheus would load them."""
    checked = _promtool("check", "rules", str(ALERTS))

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_do_what_their_tests_say() -> None:
    """Prometheus evaluates them over what the tests feed it."""
    tested = _promtool("test", "rules", str(ALERTS_TEST))

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_shown_to_fire_and_just_before_not_to() -> None:
    """Some test has a minute in which it fires and does not in the one before."""
    shown = set()
    for test in ALERTS_TEST.read_text(encoding="utf-8").split("  - interval:"):
        firing = {int(minute): set(re.findall(r'alertname="(\w+)"', names)) for minute, names in _CASE.findall(test)}
        for minute, names in firing.items():
            shown |= names - firing.get(minute - 1, names)

    assert set(alert_names()) == shown


def test_what_alerts_see_increase_is_there_before_it_does() -> None:
    """The first increase is one from 0: of a series that just came, Prometheus would say that it did not increase."""
    rules = ALERTS.read_text(encoding="utf-8")
    wanted = set(re.findall(r"(?:increase|rate)\((\w+_total)(?:\{\w+=~?\"([^\"]+)\"[^}]*\})?\[", rules))
    samples = [sample for metric in Metrics().registry.collect() for sample in metric.samples]
    there = {(sample.name, value) for sample in samples for value in (*sample.labels.values(), "")}
    lacking = {(name, value) for name, values in wanted for value in values.split("|") if (name, value) not in there}

    # Of one listener or one watched key each, and there as soon as that is; how many calls began is no alert by itself.
    assert {name for name, _ in lacking} <= {
        "keybroker_certificate_reload_failures_total",
        "keybroker_watch_failures_total",
        "grpc_server_started_total",
    }
    assert ("keybroker_kms_requests_total", "KMS_BAD_RESPONSE") in wanted & there


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """And every section its alert, in the same order; the address that the alert carries is the section's."""
    rules = ALERTS.read_text(encoding="utf-8")
    sections = re.findall(r"^### (Keybroker\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)

    assert sections == alert_names()
    assert [f"docs/runbook.md#{name.lower()}" for name in sections] == re.findall(r"runbook_url: (\S+)", rules)


def test_every_alert_says_how_bad_it_is() -> None:
    """And in a line what it is, and in a sentence what that means."""
    rules = re.split(r"^ +- alert: ", ALERTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]

    lacking = [
        rule.split()[0]
        for rule in rules
        if not (
            re.search(r"severity: (?:warning|critical)\n", rule) and "summary: " in rule and "description: " in rule
        )
    ]

    assert [] == lacking

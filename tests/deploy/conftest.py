"""Tests of deploy/: collected when KEYBROKER_DEPLOY names the built manifests, as scripts/deploy-check sees to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if "KEYBROKER_DEPLOY" in os.environ else ["test_*.py"]

Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def built() -> dict[str, Objects]:
    """What kustomize makes of each directory: its objects by kind and name."""
    read = json.loads(Path(os.environ["KEYBROKER_DEPLOY"]).read_text())
    return {
        directory: {(each["kind"], each["metadata"]["name"]): each for each in objects}
        for directory, objects in read.items()
    }


@pytest.fixture(scope="session")
def fleet(built: dict[str, Objects]) -> Objects:
    """The fleet."""
    return built["deploy/kubernetes/fleet"]


@pytest.fixture(scope="session")
def sidecar(built: dict[str, Objects]) -> Objects:
    """The application with its sidecar."""
    return built["deploy/kubernetes/sidecar"]

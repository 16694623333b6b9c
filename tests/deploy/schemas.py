"""Usage: schemas.py FILE: holds built manifests against the published schemas of Kubernetes, strictly.

Run by scripts/deploy-check in an environment of its own, which has the schemas.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import kubernetes_validate  # type: ignore[import-not-found]  # not in the environment of the tests

# Some way back, and the newest: sidecars are stable in both.
_VERSIONS = ("1.33.0", "1.37.0")


def main() -> int:
    """Says which objects of Kubernetes' own are faulty."""
    built = json.loads(Path(sys.argv[1]).read_text())
    faults = 0
    for directory, objects in built.items():
        for each in objects:
            if each["apiVersion"].startswith("monitoring.coreos.com/"):
                continue  # no kind of Kubernetes'
            for version in _VERSIONS:
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                    print(
                        f"{directory}: {each['kind']} {each['metadata']['name']}: {str(error).splitlines()[0]}",
                        file=sys.stderr,
                    )
                    faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

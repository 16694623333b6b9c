"""Usage: sbom_check.py FILE: holds an SBOM against the schema of CycloneDX 1.6."""

# ruff: noqa: INP001 -- scripts are no package
from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion  # type: ignore[import-not-found]  # of the build stage
from cyclonedx.validation.json import JsonStrictValidator  # type: ignore[import-not-found]  # as above


def main() -> int:
    """Says what is wrong with it, if anything is."""
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if fault:
        print(fault, file=sys.stderr)  # noqa: T201 -- for the person at the terminal
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())

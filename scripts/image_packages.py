"""Which of the base's packages the image's files come from, told to scanners (dpkg's status.d) and to the SBOM."""

# ruff: noqa: INP001 -- scripts are no package
from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

_BATCH = 500  # files that dpkg is asked about at once
_MERGED = ("bin", "lib", "lib64", "sbin")


def installed(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """The packages that own any of the files, by name: their fields in dpkg's database."""
    asked = sorted({str(path) for file in files for path in _names(file)})
    owners: set[str] = set()
    for start in range(0, len(asked), _BATCH):
        listing = subprocess.run(  # noqa: S603
            ["dpkg-query", "--search", *asked[start : start + _BATCH]],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,  # fails if nobody owns one of the files, such as an interpreter built from source
        )
        owners.update(name for line in listing.stdout.splitlines() for name in line.partition(": ")[0].split(", "))
    packages = {}
    for owner in sorted(name for name in owners if not name.startswith("diversion")):
        status = subprocess.run(  # noqa: S603
            ["dpkg-query", "--status", owner],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        packages[owner.partition(":")[0]] = _fields(status)
    return packages


def write_status(root: Path, packages: dict[str, dict[str, str]]) -> None:
    """Leaves one file for each package, where scanners of images without dpkg look for it."""
    directory = root / "var/lib/dpkg/status.d"
    directory.mkdir(parents=True)
    for name, fields in packages.items():
        text = "".join(f"{field}: {value}\n" for field, value in fields.items())
        (directory / name).write_text(text)


def write_sbom(environment: Path, packages: dict[str, dict[str, str]], out: Path) -> None:
    """Adds the base's packages and the interpreter to the SBOM of the Python environment."""
    sbom: dict[str, Any] = json.loads(environment.read_text())
    system = dict(line.split("=", 1) for line in Path("/usr/lib/os-release").read_text().splitlines() if "=" in line)
    subject = sbom["metadata"]["component"]
    subject["purl"] = f"pkg:pypi/{subject['name']}@{subject['version']}"
    distribution, release = system["ID"].strip('"'), system["VERSION_ID"].strip('"')
    for name, fields in packages.items():
        version, architecture = fields["Version"], fields["Architecture"]
        place = f"?arch={architecture}&distro={distribution}-{release}"
        purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}{place}"
        component = {"bom-ref": purl, "name": name, "purl": purl, "type": "library", "version": version}
        sbom["components"].append(component)
    if not any(name.startswith("python3") for name in packages):  # the official image's comes from no package
        version = platform.python_version()
        purl = f"pkg:generic/python@{version}"
        interpreter = {"bom-ref": purl, "name": "python", "purl": purl, "type": "platform", "version": version}
        sbom["components"].append(interpreter)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(sbom, indent=1, sort_keys=True) + "\n")


def _names(file: Path) -> list[Path]:
    """A file's names in dpkg's database, which still knows /lib beside /usr/lib."""
    parts = file.parts
    if len(parts) > 2 and parts[1] == "usr" and parts[2] in _MERGED:  # noqa: PLR2004 -- /, usr, lib
        return [file, Path("/", *parts[2:])]
    return [file]


def _fields(status: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in status.splitlines():
        if line[:1] not in ("", " "):
            name, _, value = line.partition(": ")
            fields[name] = value
    kept = ("Package", "Status", "Version", "Architecture", "Source", "Maintainer")
    return {name: fields[name] for name in kept if name in fields}

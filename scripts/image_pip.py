"""Usage: image_pip.py DIRECTORY: writes pip's settings and CA of this machine, as the build stage takes them.

Only what pip needs to reach an index: a cache, a target or a constraint of this machine is none of the image's.
"""

# ruff: noqa: INP001 -- scripts are no package
from __future__ import annotations

import configparser
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

_TAKEN = ("index-url", "extra-index-url", "trusted-host", "timeout", "retries", "proxy")
_CA_IN_THE_BUILD = "/run/secrets/ca"


def main() -> int:
    """Writes the files pip and, if there is one, ca."""
    directory = Path(sys.argv[1])
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings: dict[str, str] = {}
    for line in listing.splitlines():  # as in: global.timeout='60'; the environment comes last, as with pip
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    for name in (*_TAKEN, "cert"):  # for a python3 without pip
        settings.setdefault(name, os.environ.get(f"PIP_{name.replace('-', '_').upper()}", ""))
    taken = {name: settings[name] for name in _TAKEN if settings.get(name)}
    ca = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if ca and Path(ca).is_file():
        shutil.copyfile(ca, directory / "ca")
        taken["cert"] = _CA_IN_THE_BUILD
    file = configparser.RawConfigParser()
    file["global"] = taken
    with (directory / "pip").open("w") as output:
        file.write(output)
    (directory / "pip").chmod(0o600)
    return 0


if __name__ == "__main__":
    sys.exit(main())

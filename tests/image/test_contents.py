"""What is in the image, and what is not."""

from __future__ import annotations

import itertools
import json
import re
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from tests.image.container import Image

MOST_BYTES = 160 * 1024 * 1024

OUR_OWN = {
    project["name"]: project["version"]
    for project in (
        tomllib.loads(Path(where, "pyproject.toml").read_text())["project"] for where in (".", "clients/python")
    )
}
PROGRAMS = {"keybroker", "python"}

UNWANTED = re.compile(
    r"(cc|gcc|g\+\+|c\+\+|clang|ld|as|make|cmake|rustc|cargo|go)(-[0-9.]+)?"
    r"|(pip|setuptools|ensurepip|wheel|uv|hatchling)([0-9.]*|-.*)"
    r"|(sh|bash|dash|ash|busybox|perl.*|apt|apt-get|dpkg|su|sudo|mount|curl|wget|openssl)"
)
TESTS = re.compile(r"tests?|testdata|test_.*\.py|.*_test\.py|conftest\.py|demo|benchmarks|fake_.*")
SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}|keybroker-seal-1:[A-Za-z0-9_-]{43}")


def everything(image: Image) -> Iterator[tuple[Path, os.stat_result]]:
    """Each path in the image, without its root, and what the file system says of it."""
    for path in image.root.rglob("*"):
        yield path.relative_to(image.root), path.lstat()


def files(image: Image) -> Iterator[Path]:
    """Each regular file."""
    return (image.root / path for path, status in everything(image) if stat.S_ISREG(status.st_mode))


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(image: Image) -> list[PathDistribution]:
    """The distributions in the image."""
    return [PathDistribution(path) for path in image.site_packages.glob("*.dist-info")]


def test_it_runs_as_a_numeric_user_without_root_below(image: Image) -> None:
    """The configuration names a user that Kubernetes can tell is not root, and a command without a shell."""
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == ["keybroker"]
    assert image.config["Cmd"] == ["serve", "--config", "/etc/keybroker/keybroker.toml"]
    assert list(image.config["Volumes"]) == ["/run/keybroker"]
    labels = image.config["Labels"]
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert labels["org.opencontainers.image.version"] == OUR_OWN["keybroker"]


def test_everything_belongs_to_root_but_the_sockets_directory(image: Image) -> None:
    """No file is setuid or setgid, none may be written by others than root, and one directory is the broker's."""
    theirs = []
    for path, status in everything(image):
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o022, path
        if (status.st_uid, status.st_gid) != (0, 0):
            theirs.append((str(path), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))
    assert theirs == [("run/keybroker", 65532, 65532, 0o755)]


def test_no_compiler_no_installer_no_shell(image: Image) -> None:
    """No file has the name of a tool that builds, installs, or gives a person or an intruder a hand."""
    there = [path for path, status in everything(image) if not stat.S_ISDIR(status.st_mode)]
    assert [str(path) for path in there if UNWANTED.fullmatch(path.name)] == []
    top = {path.name for path in image.site_packages.iterdir()}
    assert [name for name in top if UNWANTED.fullmatch(name)] == []


def test_the_only_programs_are_the_broker_and_its_interpreter(image: Image) -> None:
    """Nothing else is executable but the loader."""
    executable = {path.name for path in files(image) if path.stat().st_mode & 0o111}
    assert {name for name in executable if not name.startswith("ld-linux")} <= {
        *PROGRAMS,
        f"python{image.site_packages.parent.name.removeprefix('python')}",
    }
    assert {path.name for path in (image.root / "opt/keybroker/bin").iterdir()} == PROGRAMS


def test_no_tests_and_no_demo(image: Image) -> None:
    """Neither ours nor those of what we depend on."""
    assert [str(path) for path, _ in everything(image) if TESTS.fullmatch(path.name)] == []


def test_no_private_keys(image: Image) -> None:
    """No file holds a private key or a seal key."""
    assert [path for path in files(image) if SECRET.search(path.read_bytes())] == []


def test_the_distributions_are_the_locked_ones_and_ours(image: Image) -> None:
    """Names and versions are those of requirements/run.txt, to the last."""
    locked = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", Path("requirements/run.txt").read_text(), re.MULTILINE))
    installed = {normal(each.metadata["Name"]): each.version for each in distributions(image)}
    assert installed == locked | OUR_OWN


def test_site_packages_hold_what_distributions_brought_and_no_more(image: Image) -> None:
    """Each name at the top is in some distribution's RECORD."""
    brought = {file.parts[0] for each in distributions(image) for file in each.files or ()}
    assert {path.name for path in image.site_packages.iterdir()} - brought <= {"__pycache__"}


def test_all_bytecode_is_there(image: Image) -> None:
    """Nothing has to be compiled at start, when nothing can be written."""
    sources = [path for path in files(image) if path.suffix == ".py"]
    assert len(sources) > 1000
    tag = f"cpython-{image.site_packages.parent.name.removeprefix('python').replace('.', '')}"
    missing = [path for path in sources if not (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").exists()]
    assert missing == []


def test_nothing_tells_of_the_machine_that_built_it(image: Image) -> None:
    """Neither files nor configuration nor history name its directories, or the index its pip uses."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    values = [word for line in listing.splitlines() for word in line.partition("=")[2].strip("'\"").split()]
    hosts = {urlsplit(value).hostname or "" for value in values if "://" in value} - {""}
    paths = {value for value in values if value.startswith("/") and not value.startswith("/etc/ssl/")}
    checkout = {str(Path.cwd())} if len(Path.cwd().parts) > 2 else set()  # /build is any machine's
    tells = [each.encode() for each in hosts | paths | checkout]
    # Those of others came as they are; what they name is not from here.
    packages = image.site_packages
    ours = (
        path
        for path in files(image)
        if packages not in path.parents or path.relative_to(packages).parts[0].startswith("key")
    )
    places = itertools.chain(ours, (image.directory / name for name in ("config.json", "history.txt")))
    assert [path for path in places if any(each in path.read_bytes() for each in tells)] == []


def test_it_is_small(image: Image) -> None:
    """Prints its size."""
    sizes = {path: path.stat().st_size for path in files(image)}
    python = sum(size for path, size in sizes.items() if image.site_packages in path.parents)
    print(f"\nimage: {sum(sizes.values()) / 2**20:.0f} MiB in {len(sizes)} files", end="")
    print(f", {python / 2**20:.0f} of it distributions")
    assert sum(sizes.values()) < MOST_BYTES


def test_the_sbom_names_everything(image: Image) -> None:
    """Each distribution and each of the base's packages is in it with version and package URL."""
    sbom: dict[str, Any] = json.loads((image.root / "usr/share/sbom/keybroker.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    named = {component["purl"].partition("?")[0] for component in sbom["components"]}
    named.add(sbom["metadata"]["component"]["purl"])
    for each in distributions(image):
        assert f"pkg:pypi/{normal(each.metadata['Name'])}@{each.version}" in named
    packages = list((image.root / "var/lib/dpkg/status.d").iterdir())
    assert {"libc6", "libssl3", "ca-certificates"} <= {package.name for package in packages}
    for package in packages:
        assert any(purl.startswith(f"pkg:deb/debian/{package.name.replace('+', '%2B')}@") for purl in named), package

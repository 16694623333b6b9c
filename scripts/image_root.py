"""Usage: image_root.py VENV SBOM DIRECTORY: chooses what the image is made of, in the image's build stage.

DIRECTORY/root becomes the image's root and DIRECTORY/run its /run: the virtual environment, the interpreter and its
standard library, the shared libraries that any of these load, the public CAs. The list says what is taken, so that
whatever a base brings along besides (shell, package manager, pip, setuid programs) stays out without being known.
"""

# ruff: noqa: INP001 -- scripts are no package
from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path

import image_packages

_USER = 65532

# Of the standard library: what installs, tests, draws or compiles, and modules whose libraries nothing here needs.
_LEFT_OUT = {
    *("__pycache__", "dist-packages", "site-packages", "sitecustomize.py", "EXTERNALLY-MANAGED"),
    *("ensurepip", "venv", "distutils", "lib2to3", "pip", "setuptools", "_distutils_system_mod.py"),
    *("test", "tests", "idlelib", "tkinter", "turtle.py", "turtledemo", "pydoc_data", "curses", "dbm", "sqlite3"),
}
_EXTENSIONS_LEFT_OUT = re.compile(
    r"(_test.*|_xx.*|xx.*|_ctypes_test|_tkinter|_curses.*|_dbm|_gdbm|_sqlite3|readline|nis|ossaudiodev|_crypt)\.cpython-.*"
)

# Of the AWS SDK's descriptions of services: KMS, and those that credentials come from.
_SERVICES = {"kms", "sts", "sso", "sso-oidc", "signin"}

_LIBRARY = re.compile(r"(?:=>\s+)?(/\S+)\s+\(0x[0-9a-f]+\)")


def main() -> int:
    """Fills the directory."""
    venv, sbom, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    root = out / "root"
    tree = _Tree(root)
    tree.link_merged_directories()

    interpreter = Path(sys.executable).resolve()
    tree.copy(interpreter)
    tree.copy_standard_library(Path(sysconfig.get_path("stdlib")))
    _tidy_environment(venv, interpreter)
    tree.copy_whole(venv)
    for loaded in (interpreter, *_shared_objects(root, Path(sysconfig.get_path("stdlib"))), *venv.rglob("*.so*")):
        for library in _libraries(loaded):
            if venv not in library.parents:
                tree.copy(library)
    for library in _libraries_opened_by_glibc():
        tree.copy(library)
    tree.copy(Path("/etc/ssl/certs/ca-certificates.crt"))
    tree.copy(Path("/usr/lib/os-release"))
    _compile(root, venv, Path(sysconfig.get_path("stdlib")))
    _write_etc(root)

    # The bundle of CAs is made on installation, and so belongs to no package; its maker's does.
    packages = image_packages.installed({*tree.copied, Path("/usr/sbin/update-ca-certificates")})
    for package in packages:
        terms = Path("/usr/share/doc", package, "copyright")
        if terms.exists():
            tree.copy(terms)
    image_packages.write_status(root, packages)
    image_packages.write_sbom(sbom, packages, root / "usr/share/sbom/keybroker.cdx.json")

    for directory in ("proc", "sys", "dev", "run", "etc/keybroker"):  # mount points, for a root that is read-only
        (root / directory).mkdir(parents=True, exist_ok=True)
    (out / "run/keybroker").mkdir(parents=True)
    _settle(out)
    return 0


class _Tree:
    """A root file system that grows by copies of this one's files, each at its own place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.copied: set[Path] = set()

    def link_merged_directories(self) -> None:
        """Makes /lib and its like the links they are on Debian, before anything is put behind them."""
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            here = Path("/", name)
            if here.is_symlink():
                target = here.readlink()
                (self.root / "usr" / target.name).mkdir(parents=True, exist_ok=True)
                (self.root / name).symlink_to(target)

    def copy(self, path: Path) -> None:
        """Copies a file; for a link also what it points to."""
        path = path.parent.resolve() / path.name  # /lib/x to /usr/lib/x
        there = self.root / path.relative_to("/")
        if there.exists() or there.is_symlink():
            return
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there, follow_symlinks=False)
        self.copied.add(path)
        if path.is_symlink():
            self.copy(path.parent / path.readlink())

    def copy_standard_library(self, library: Path) -> None:
        """Copies the standard library without what _LEFT_OUT names."""
        for directory, names, files in os.walk(library):
            names[:] = [name for name in names if name not in _LEFT_OUT and not name.startswith("config-")]
            for name in files:
                if name not in _LEFT_OUT and not _EXTENSIONS_LEFT_OUT.fullmatch(name):
                    self.copy(Path(directory, name))

    def copy_whole(self, directory: Path) -> None:
        """Copies a directory with all that is in it."""
        shutil.copytree(directory, self.root / directory.relative_to("/"), symlinks=True)


def _tidy_environment(venv: Path, interpreter: Path) -> None:
    """Leaves of the environment's programs the broker's own, and the interpreter without a detour."""
    programs = venv / "bin"
    for program in programs.iterdir():
        if program.name not in ("keybroker", "python"):
            program.unlink()
    (programs / "python").unlink()
    (programs / "python").symlink_to(interpreter)
    shutil.rmtree(venv / "include", ignore_errors=True)
    (venv / "lib64").unlink(missing_ok=True)  # a link to lib
    unwanted = {*venv.rglob("tests"), *venv.rglob("testdata"), *venv.rglob("__pycache__")}
    unwanted |= {data for data in venv.glob("lib/*/site-packages/botocore/data/*/") if data.name not in _SERVICES}
    for directory in unwanted:
        shutil.rmtree(directory, ignore_errors=True)
    for module in venv.rglob("test_*.py"):
        module.unlink()


def _shared_objects(root: Path, library: Path) -> list[Path]:
    there = root / library.relative_to("/")
    return [Path("/") / path.relative_to(root) for path in there.rglob("*.so*")]


def _libraries(loaded: Path) -> list[Path]:
    """What the loader would open for a program or library, itself included."""
    listing = subprocess.run(["ldd", loaded], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if "not found" in listing.stdout:
        raise SystemExit(f"{loaded} needs what the base has not:\n{listing.stdout}")
    return [Path(match[1]) for match in _LIBRARY.finditer(listing.stdout)]


def _libraries_opened_by_glibc() -> list[Path]:
    """Libraries that nothing links: the unwinder, which ends threads, and the resolver's parts."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return [
        Path(match[1]) for match in re.finditer(r"(?:libgcc_s\.so\.1|libnss_(?:dns|files)\.so\.2) .*=> (\S+)", listing)
    ]


def _compile(root: Path, venv: Path, library: Path) -> None:
    """Compiles everything once. Hashes in place of times: a layer may change times, and then nothing would fit."""
    for directory in (library, venv):
        if not compileall.compile_dir(
            root / directory.relative_to("/"),
            stripdir=str(root),
            prependdir="/",
            quiet=1,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        ):
            raise SystemExit(f"{directory} does not compile")


def _write_etc(root: Path) -> None:
    etc = root / "etc"
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/:/sbin/nologin\nkeybroker:x:{_USER}:{_USER}:keybroker:/nonexistent:/sbin/nologin\n"
    )
    (etc / "group").write_text(f"root:x:0:\nkeybroker:x:{_USER}:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    # OpenSSL's default place for public CAs, which here is that one file.
    if bundle := ssl.get_default_verify_paths().openssl_cafile:
        link = root / Path(bundle).relative_to("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/etc/ssl/certs/ca-certificates.crt")
    # The loader's cache, for a base whose interpreter is outside the loader's own directories.
    for name in ("ld.so.conf", "ld.so.conf.d"):
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, etc / name)
        elif source.exists():
            shutil.copy2(source, etc / name)
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True)  # noqa: S603
    shutil.rmtree(root / "var/cache", ignore_errors=True)  # ldconfig's notes for its next run


def _settle(out: Path) -> None:
    """One time for everything, nothing that others than root may write, nothing setuid."""
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for path in [out, *out.rglob("*")]:
        if not path.is_symlink():
            program = path.parent.name == "bin" or path.name.startswith("ld-linux")
            path.chmod(0o755 if path.is_dir() or program else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())

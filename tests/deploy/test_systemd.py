"""The systemd unit: sound, confined, and patient enough with a broker that stops."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

from keybroker.__main__ import EXIT_BAD_SETTINGS
from keybroker.app import LIMIT

DIRECTORY = Path("deploy/systemd")
PROGRAM = "/opt/keybroker/bin/keybroker"
WORST_EXPOSURE = 15  # tenths, of 100

ANALYZE = shutil.which("systemd-analyze")


def service() -> dict[str, str]:
    """The unit's [Service] section; of a name that comes twice, the last."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DIRECTORY / "keybroker.service")
    return dict(unit["Service"])


def analyze(*arguments: str | Path) -> str:
    """What systemd-analyze says; fails if it finds fault."""
    assert ANALYZE, "systemd-analyze is not here; as root: apt-get install systemd"
    done = subprocess.run(  # noqa: S603 -- systemd's own
        [ANALYZE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    """Every line is known and sound, those of the drop-in, too."""
    unit = tmp_path / "keybroker.service"
    # The program is not on this machine, and whether it is there is all that would be said of it.
    unit.write_text((DIRECTORY / unit.name).read_text().replace(PROGRAM, "/bin/true"))
    shutil.copytree(DIRECTORY / "keybroker.service.d", tmp_path / "keybroker.service.d")
    assert analyze("verify", "--man=no", "--recursive-errors=no", unit) == ""


def test_systemd_rates_the_exposure_low() -> None:
    """What is left open is the network, which is what a broker is for."""
    said = analyze(
        "security", "--offline=true", f"--threshold={WORST_EXPOSURE}", "--no-pager", DIRECTORY / "keybroker.service"
    )
    print(said.splitlines()[-1])


def test_a_stop_is_waited_for() -> None:
    """Nobody is killed who would have ended by himself."""
    assert int(service()["TimeoutStopSec"]) > LIMIT


def test_bad_settings_are_not_tried_again() -> None:
    """The exit code of bad settings is one that systemd does not restart after."""
    assert service()["RestartPreventExitStatus"] == str(EXIT_BAD_SETTINGS)


def test_the_sockets_directory_is_as_the_broker_demands_it() -> None:
    """It is the broker's, and nobody else may write it."""
    assert service()["RuntimeDirectory"] == "keybroker"
    assert int(service()["RuntimeDirectoryMode"], 8) & 0o022 == 0
    assert f"g {service()['Group']} " in (DIRECTORY / "keybroker.sysusers.conf").read_text()

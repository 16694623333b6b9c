"""The `keyimport` command: it starts where its libraries are installed, and says how to install them where not."""

import io
import os
import signal
import sys
from typing import NoReturn

_NEEDED = {"click", "rich"}
_INTERRUPTED = 130  # `Exit.INTERRUPTED`, which may not be loaded yet


def main() -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit code."""
    try:
        from keyimport.cli.commands import run  # noqa: PLC0415 -- needs what may not be there, and takes its time
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit("keyimport: the command line is not installed. Run: pip install 'keyimport[cli]'")
    except KeyboardInterrupt:
        sys.stderr.write("keyimport: interrupted.\n")
        sys.exit(_INTERRUPTED)
    # Whoever closes one of them does not want to read it.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what this locale cannot show
    # Whoever ends the process politely interrupts it: an import under way then says that its outcome is unknown.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(run(sys.argv[1:]))

"""Options, arguments and files that a command cannot begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from keyimport.cli.exits import Exit
from tests.cli.wrong_input import GET_IT, IMPORT_IT, MAKE_IT, P256, SEND_IT, TLS, WRAP_IT, Case, all_of, private_key
from tests.client.fake_broker import KEY_ID

NO_TEXT = "\udcff"  # a byte of another encoding, as Python has it from the command line
IN_TIME = (datetime.now(UTC) + timedelta(days=90)).isoformat(timespec="seconds")
CASES = [
    Case(name="a key that is no text", arguments=["status", NO_TEXT], code=Exit.USAGE, names="KEY"),
    Case(name="a note that is no text", arguments=[*SEND_IT, "--description", NO_TEXT], code=Exit.USAGE, names="text"),
    Case(name="a note that KMS refuses", arguments=[*MAKE_IT, "--description", "<b>"], code=Exit.USAGE, names="256 of"),
    Case(name="a long note", arguments=[*IMPORT_IT, "--description", "x" * 257], code=Exit.USAGE, names="256 of"),
    Case(
        name="no material's id", arguments=[*SEND_IT, "--key-material-id", "AB"], code=Exit.USAGE, names="64 lower-case"
    ),
    Case(
        name="no material's id to delete",
        arguments=["delete", KEY_ID, "--yes", "--key-material-id", "ab"],
        code=Exit.USAGE,
        names="64 lower-case",
    ),
    Case(
        name="an expiry beyond all years",
        arguments=[*MAKE_IT[:-1], "--valid-to", "9999-12-31T23:59:59-12:00"],
        code=Exit.USAGE,
        names="365 days",
    ),
    Case(
        name="too late an expiry",
        arguments=[*MAKE_IT[:-1], "--valid-to", "2150-01-01T00:00:00Z"],
        code=Exit.USAGE,
        names="365 days",
    ),
    Case(name="no command", arguments=["frobnicate"], code=Exit.USAGE, names="frobnicate"),
    Case(name="no such option", arguments=[*GET_IT, "--force"], code=Exit.USAGE, names="--force"),
    Case(name="no key", arguments=["get", "--out", "new"], code=Exit.USAGE, names="KEY"),
    Case(name="no such algorithm", arguments=[*GET_IT, "--wrapping-algorithm", "RSA"], code=Exit.USAGE, names="RSA"),
    Case(name="no such span", arguments=[*GET_IT, "--min-remaining", "1y"], code=Exit.USAGE, names="1y"),
    Case(name="no timeout", arguments=[*GET_IT, "--timeout", "nan"], code=Exit.USAGE, names="--timeout"),
    Case(name="a directory in use", arguments=["get", KEY_ID, "--out", "set"], code=Exit.USAGE, names="set"),
    Case(name="a file in its place", arguments=["get", KEY_ID, "--out", "key.bin"], code=Exit.USAGE, names="key.bin"),
    Case(name="no folder for it", arguments=["get", KEY_ID, "--out", "no/new"], code=Exit.USAGE, names="no"),
    Case(name="half of mutual TLS", arguments=[*GET_IT, "--ca", "key.bin"], code=Exit.USAGE, names="--certificate"),
    Case(name="no certificates", arguments=[*GET_IT, *TLS], code=Exit.USAGE, names="--ca"),
    Case(
        name="a certificate far too large",
        arguments=[*GET_IT, *TLS],
        code=Exit.USAGE,
        names="key.bin: it is far too large",
        spoil=lambda stage: stage.write("key.bin", bytes(2**20)),
    ),
    Case(
        name="a token far too large",
        arguments=["discard", KEY_ID, "--token", "key.bin"],
        code=Exit.USAGE,
        names="key.bin: it is far too large",
        spoil=lambda stage: stage.write("key.bin", bytes(2**20)),
    ),
    Case(
        name="a passphrase far too large",
        arguments=[*WRAP_IT, "--form", "pem", "--passphrase-file", "wrapped.bin"],
        code=Exit.USAGE,
        names="wrapped.bin: it is far too large",
        spoil=all_of(
            private_key(*P256, "-aes256", "-pass", "pass:secret"),
            lambda stage: stage.write("wrapped.bin", bytes(2**20)),
        ),
    ),
    Case(name="no target", arguments=[*GET_IT, "--target", "tcp:x"], code=Exit.USAGE, names="--target"),
    Case(name="no such port", arguments=[*GET_IT, "--target", "127.0.0.1:99999"], code=Exit.USAGE, names="65535"),
    Case(name="no path", arguments=[*GET_IT, "--target", "unix:"], code=Exit.USAGE, names="--target"),
    Case(name="plain text to far", arguments=[*GET_IT, "--target", "10.0.0.1:1"], code=Exit.USAGE, names="TLS"),
    Case(name="no such set", arguments=[*WRAP_IT[:2], "none", *WRAP_IT[3:]], code=Exit.USAGE, names="none"),
    Case(name="no such material", arguments=[*WRAP_IT[:4], "none", *WRAP_IT[5:]], code=Exit.USAGE, names="none"),
    Case(name="no overwriting", arguments=[*WRAP_IT[:-1], "wrapped.bin"], code=Exit.USAGE, names="wrapped.bin"),
    Case(name="no such form", arguments=[*WRAP_IT, "--form", "jwk"], code=Exit.USAGE, names="jwk"),
    Case(name="no expiry", arguments=SEND_IT[:-1], code=Exit.USAGE, names="--valid-to"),
    Case(name="two expiries", arguments=[*SEND_IT, "--valid-to", IN_TIME], code=Exit.USAGE, names="one"),
    Case(
        name="a past expiry",
        arguments=[*SEND_IT[:-1], "--valid-to", "2020-01-01T00:00:00Z"],
        code=Exit.USAGE,
        names="past",
    ),
    Case(
        name="no timezone",
        arguments=[*SEND_IT[:-1], "--valid-to", IN_TIME.removesuffix("+00:00")],
        code=Exit.USAGE,
        names="timezone",
    ),
    Case(name="no time", arguments=[*SEND_IT[:-1], "--valid-to", "soon"], code=Exit.USAGE, names="soon"),
    Case(
        name="nothing to import", arguments=["import", KEY_ID, "--never-expires"], code=Exit.USAGE, names="--material"
    ),
    Case(name="two ways to import", arguments=[*IMPORT_IT, "--generate"], code=Exit.USAGE, names="--generate"),
    *(
        Case(name=f"{flag} for what is wrapped", arguments=[*SEND_IT, flag, value], code=Exit.USAGE, names=flag)
        for flag, value in [
            ("--form", "raw"),
            ("--passphrase-file", "key.bin"),
            ("--wrapping-algorithm", "RSAES_OAEP_SHA_256"),
            ("--wrapping-key-spec", "RSA_4096"),
        ]
    ),
    Case(name="a form of what is generated", arguments=[*MAKE_IT, "--form", "pem"], code=Exit.USAGE, names="--form"),
    Case(
        name="generated for nobody",
        arguments=["import", KEY_ID, "--generate", "--never-expires"],
        code=Exit.USAGE,
        names="--save",
    ),
    Case(name="saved over a file", arguments=[*MAKE_IT[:4], "key.bin", *MAKE_IT[5:]], code=Exit.USAGE, names="key.bin"),
    Case(name="deleted unasked", arguments=["delete", KEY_ID], code=Exit.USAGE, names="--yes"),
    Case(name="discarded by halves", arguments=["discard", KEY_ID], code=Exit.USAGE, names="--token"),
    Case(
        name="a passphrase nobody knows",
        arguments=[*WRAP_IT, "--form", "pem"],
        code=Exit.USAGE,
        names="--passphrase-file",
        spoil=private_key(*P256, "-aes256", "-pass", "pass:secret"),
    ),
]

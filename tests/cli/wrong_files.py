"""Parameter sets that are none, and key material that the key does not take."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import grpc

from keyimport.cli.exits import Exit
from tests.cli.sets import KEY_WRAP
from tests.cli.wrong_input import (
    CANARY,
    GET_IT,
    IMPORT,
    IMPORT_IT,
    MAKE_IT,
    P256,
    RSA,
    SEND_IT,
    WRAP_IT,
    Case,
    all_of,
    other_set,
    private_key,
    refused,
)

CODE = grpc.StatusCode

CASES = [
    Case(
        name="a token of no use",
        arguments=SEND_IT,
        code=Exit.SET_REFUSED,
        names="keyimport get",
        spoil=lambda stage: stage.broker.sets.clear(),
    ),
    Case(
        name="an expired set",
        arguments=WRAP_IT,
        code=Exit.SET_REFUSED,
        names="expired",
        spoil=lambda stage: stage.replace_set(lifetime=timedelta(seconds=-1)),
    ),
    Case(
        name="an expired set to import",
        arguments=SEND_IT,
        code=Exit.SET_REFUSED,
        names="expired",
        spoil=lambda stage: stage.replace_set(lifetime=timedelta(seconds=-1)),
    ),
    *(
        Case(name=f"another {name}", arguments=WRAP_IT, code=Exit.SET_REFUSED, names=name, spoil=other_set(name))
        for name in ("WrappingPublicKey.der", "WrappingPublicKey.pem", "ImportToken.bin")
    ),
    Case(
        name="another parameters.json",
        arguments=SEND_IT,
        code=Exit.SET_REFUSED,
        names="WrappingPublicKey.der",
        spoil=other_set("parameters.json"),
    ),
    Case(
        name="a file missing",
        arguments=WRAP_IT,
        code=Exit.SET_REFUSED,
        names="ImportToken.bin",
        spoil=lambda stage: (stage.folder / "set" / "ImportToken.bin").unlink(),
    ),
    Case(
        name="facts that are no JSON",
        arguments=WRAP_IT,
        code=Exit.SET_REFUSED,
        names="parameters.json",
        spoil=lambda stage: stage.write("set/parameters.json", b"\xff"),
    ),
    Case(
        name="facts that are none",
        arguments=WRAP_IT,
        code=Exit.SET_REFUSED,
        names="parameters.json",
        spoil=lambda stage: stage.write("set/parameters.json", b"[]"),
    ),
    *(
        Case(
            name=f"{name} is {value!r}",
            arguments=WRAP_IT,
            code=Exit.SET_REFUSED,
            names=named,
            spoil=lambda stage, change={name: value}: stage.facts(**change),  # type: ignore[misc]
        )
        for name, value, named in [
            ("wrapping_key_spec", "RSA_2048", "4096 bits"),
            ("wrapping_key_spec", "RSA_1024", "parameters.json"),
            ("wrapping_key_spec", "SM2", "SM2"),
            ("wrapping_algorithm", "RSA_OAEP", "parameters.json"),
            ("parameters_valid_to", "soon", "parameters.json"),
            ("parameters_valid_to", "2050-01-01", "timezone"),
            ("parameters_valid_to", "9999-12-31T23:59:59-23:00", "parameters.json"),
            ("key_arn", 7, "parameters.json"),
            ("key_arn", "\ud800", "parameters.json"),
            ("key_spec", ["RSA_2048"], "parameters.json"),
        ]
    ),
    Case(
        name="another fingerprint",
        arguments=[*WRAP_IT, "--fingerprint", hashlib.sha256(b"").hexdigest()],
        code=Exit.SET_REFUSED,
        names="--fingerprint",
    ),
    Case(
        name="a lying broker",
        arguments=GET_IT,
        code=Exit.SET_REFUSED,
        names="SHA-256",
        spoil=lambda stage: setattr(
            stage.broker, "lie", lambda answer: setattr(answer, "public_key_sha256", bytes(32))
        ),
    ),
    Case(
        name="empty",
        arguments=WRAP_IT,
        code=Exit.MATERIAL_REFUSED,
        names="key.bin",
        spoil=lambda stage: stage.write("key.bin", b""),
    ),
    Case(
        name="far too large",
        arguments=WRAP_IT,
        code=Exit.MATERIAL_REFUSED,
        names="key.bin",
        spoil=lambda stage: stage.write("key.bin", bytes(2**20)),
    ),
    Case(
        name="far too large to be wrapped",
        arguments=SEND_IT,
        code=Exit.MATERIAL_REFUSED,
        names="wrapped.bin: it is far too large",
        spoil=lambda stage: stage.write("wrapped.bin", bytes(2**20)),
    ),
    Case(
        name="another size",
        arguments=WRAP_IT,
        code=Exit.MATERIAL_REFUSED,
        names="takes 32 bytes, not 16",
        spoil=lambda stage: stage.write("key.bin", bytes(16)),
    ),
    Case(
        name="a line feed too many",
        arguments=WRAP_IT,
        code=Exit.MATERIAL_REFUSED,
        names="line feed",
        spoil=lambda stage: stage.write("key.bin", CANARY + b"\n"),
    ),
    Case(
        name="hexadecimal text as it is",
        arguments=IMPORT_IT,
        code=Exit.MATERIAL_REFUSED,
        names="--form hex",
        spoil=lambda stage: stage.write("key.bin", CANARY.hex().encode()),
    ),
    Case(
        name="PEM text as it is",
        arguments=IMPORT_IT,
        code=Exit.MATERIAL_REFUSED,
        names="--form pem",
        spoil=private_key(*P256),
    ),
    Case(
        name="no hexadecimal text", arguments=[*WRAP_IT, "--form", "hex"], code=Exit.MATERIAL_REFUSED, names="key.bin"
    ),
    Case(name="no base64 text", arguments=[*WRAP_IT, "--form", "base64"], code=Exit.MATERIAL_REFUSED, names="base64"),
    Case(name="no PEM", arguments=[*IMPORT_IT, "--form", "pem"], code=Exit.MATERIAL_REFUSED, names="PEM"),
    Case(name="no PKCS#8", arguments=[*WRAP_IT, "--form", "pkcs8"], code=Exit.MATERIAL_REFUSED, names="PKCS#8"),
    Case(
        name="another curve",
        arguments=[*WRAP_IT, "--form", "pem"],
        code=Exit.MATERIAL_REFUSED,
        names="ECC_NIST_P384",
        spoil=all_of(lambda stage: stage.replace_set(key_spec="ECC_NIST_P384"), private_key(*P256)),
    ),
    Case(
        name="another size of RSA",
        arguments=[*IMPORT_IT, "--form", "pem"],
        code=Exit.MATERIAL_REFUSED,
        names="RSA_2048",
        spoil=all_of(lambda stage: setattr(stage.broker.status, "key_spec", "RSA_3072"), private_key(*RSA)),
    ),
    Case(
        name="larger than the algorithm holds",
        arguments=[*WRAP_IT, "--form", "pem"],
        code=Exit.MATERIAL_REFUSED,
        names="RSA_AES_KEY_WRAP",
        spoil=all_of(lambda stage: stage.replace_set(key_spec="RSA_2048"), private_key(*RSA)),
    ),
    Case(
        name="an algorithm for other keys",
        arguments=WRAP_IT,
        code=Exit.MATERIAL_REFUSED,
        names="RSA_AES_KEY_WRAP_SHA_256",
        spoil=lambda stage: stage.replace_set(algorithm=KEY_WRAP),
    ),
    Case(
        name="a wrong passphrase",
        arguments=[*WRAP_IT, "--form", "pem", "--passphrase-file", "key.bin"],
        code=Exit.MATERIAL_REFUSED,
        names="passphrase",
        spoil=private_key(*P256, "-aes256", "-pass", "pass:secret"),
    ),
    Case(
        name="plain text for the wrapped",
        arguments=[*SEND_IT[:4], "key.bin", *SEND_IT[5:]],
        code=Exit.MATERIAL_REFUSED,
        names="512 bytes here, not 32. Give the bytes that were wrapped",
    ),
    Case(
        name="a cut off key wrap",
        arguments=SEND_IT,
        code=Exit.MATERIAL_REFUSED,
        names="wrapped.bin",
        spoil=lambda stage: stage.replace_set(algorithm=KEY_WRAP),
    ),
    Case(
        name="no material for the key",
        arguments=IMPORT_IT,
        code=Exit.MATERIAL_REFUSED,
        names="KEY_MATERIAL_MISMATCH",
        spoil=refused(IMPORT, CODE.FAILED_PRECONDITION, "KEY_MATERIAL_MISMATCH"),
    ),
    Case(
        name="nothing known of the spec",
        arguments=MAKE_IT,
        code=Exit.MATERIAL_REFUSED,
        names="SM2",
        spoil=lambda stage: setattr(stage.broker.status, "key_spec", "SM2"),
    ),
]

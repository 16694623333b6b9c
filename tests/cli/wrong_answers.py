"""What a broker refuses, and brokers that are away, silent, old or mischievous."""

from __future__ import annotations

from datetime import timedelta

import grpc

from keyimport.cli.exits import Exit
from tests.cli.wrong_input import (
    DELETE,
    DISCARD,
    GET,
    GET_IT,
    IMPORT,
    IMPORT_IT,
    MAKE_IT,
    SEND_IT,
    STATUS,
    Case,
    fails,
    refused,
)
from tests.client.fake_broker import KEY_ID, Failure, try_later

CODE = grpc.StatusCode

CASES = [
    Case(
        name="a key id that is none",
        arguments=GET_IT,
        code=Exit.REQUEST_REFUSED,
        names="KEY_ID_MALFORMED",
        spoil=refused(GET, CODE.INVALID_ARGUMENT, "KEY_ID_MALFORMED"),
    ),
    Case(
        name="refused by policy",
        arguments=GET_IT,
        code=Exit.REQUEST_REFUSED,
        names="Allowed: RSAES_OAEP_SHA_256",
        spoil=refused(GET, CODE.INVALID_ARGUMENT, "WRAPPING_ALGORITHM_NOT_ALLOWED", allowed="RSAES_OAEP_SHA_256"),
    ),
    Case(
        name="a caller without the right",
        arguments=IMPORT_IT,
        code=Exit.CALLER_REFUSED,
        names="operator",
        spoil=refused(IMPORT, CODE.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"),
    ),
    Case(
        name="another account's key",
        arguments=["status", KEY_ID],
        code=Exit.CALLER_REFUSED,
        names="--target",
        spoil=refused(STATUS, CODE.PERMISSION_DENIED, "FOREIGN_ACCOUNT"),
    ),
    Case(
        name="no such key",
        arguments=GET_IT,
        code=Exit.KEY_REFUSED,
        names="Region",
        spoil=refused(GET, CODE.NOT_FOUND, "KEY_NOT_FOUND"),
    ),
    Case(
        name="a key of another origin",
        arguments=IMPORT_IT,
        code=Exit.KEY_REFUSED,
        names="EXTERNAL",
        spoil=refused(STATUS, CODE.FAILED_PRECONDITION, "KEY_NOT_EXTERNAL"),
    ),
    Case(
        name="material into a key that has some",
        arguments=MAKE_IT,
        code=Exit.KEY_REFUSED,
        names="--import-type",
        spoil=lambda stage: setattr(stage.broker.status, "key_state", "Enabled"),
    ),
    Case(
        name="throttled for long",
        arguments=GET_IT,
        code=Exit.TRY_LATER,
        names="in 240 s",
        spoil=fails(GET, try_later("QUOTA_WAIT_EXCEEDS_DEADLINE", timedelta(minutes=4))),
    ),
    Case(
        name="a broker that is down",
        arguments=[*GET_IT, "--target", "unix:none.sock", "--timeout", "0.5"],
        code=Exit.TRY_LATER,
        names="--target",
    ),
    *(
        Case(
            name=f"a broker that is down for {arguments[0]}",
            arguments=[*arguments, "--target", "unix:none.sock", "--timeout", "0.5"],
            code=Exit.TRY_LATER,
            names="--target",
        )
        for arguments in (SEND_IT, ("delete", KEY_ID, "--yes"), MAKE_IT)
    ),
    Case(
        name="a broker that does not answer",
        arguments=["status", KEY_ID, "--timeout", "0.5"],
        code=Exit.TRY_LATER,
        names="--timeout",
        spoil=lambda stage: stage.broker.stalled.add(STATUS),
    ),
    Case(
        name="no answer to an import",
        arguments=[*SEND_IT, "--timeout", "1"],
        code=Exit.OUTCOME_UNKNOWN,
        names="keyimport status",
        spoil=lambda stage: stage.broker.stalled.add(IMPORT),
    ),
    Case(
        name="a deletion that broke off",
        arguments=["delete", KEY_ID, "--yes"],
        code=Exit.OUTCOME_UNKNOWN,
        names="keyimport status",
        spoil=fails(DELETE, Failure(code=CODE.UNAVAILABLE, trailer=None)),
    ),
    Case(
        name="an error in the broker",
        arguments=["discard", KEY_ID, "--token", "set/ImportToken.bin"],
        code=Exit.BROKER_FAULT,
        names="c-17",
        spoil=refused(DISCARD, CODE.INTERNAL, "INTERNAL", correlation_id="c-17"),
    ),
    Case(
        name="an older broker",
        arguments=["status", KEY_ID],
        code=Exit.BROKER_FAULT,
        names="older",
        spoil=fails(STATUS, Failure(code=CODE.UNIMPLEMENTED, trailer=None)),
    ),
    Case(
        name="an answer that steers terminals",
        arguments=["status", KEY_ID],
        code=Exit.BROKER_FAULT,
        names="]0;owned",
        spoil=fails(STATUS, Failure(code=CODE.INTERNAL, trailer=None, message="\x1b]0;owned\x07 and\nmore")),
    ),
]

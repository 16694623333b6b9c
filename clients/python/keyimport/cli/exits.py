"""How a command ends: one exit code for each kind of failure, and for each failure what to do next."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from keyimport import errors
from keyimport.parameter_files import ParameterFilesRefused

if TYPE_CHECKING:
    from collections.abc import Mapping


class Exit(IntEnum):
    """The exit codes, the same for every command."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    REQUEST_REFUSED = 3
    CALLER_REFUSED = 4
    KEY_REFUSED = 5
    SET_REFUSED = 6
    MATERIAL_REFUSED = 7
    TRY_LATER = 8
    OUTCOME_UNKNOWN = 9
    BROKER_FAULT = 10
    NOT_TOLD = 11
    DECLINED = 12
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "done",
    Exit.INTERNAL: "an error in keyimport or on this machine",
    Exit.USAGE: "an option, an argument or a file that it names is wrong",
    Exit.REQUEST_REFUSED: "the request is refused: key id, policy, wrapping",
    Exit.CALLER_REFUSED: "the caller is refused",
    Exit.KEY_REFUSED: "the key is refused: not found, its origin, its state",
    Exit.SET_REFUSED: "the parameter set is refused: its token, its expiry, files that do not belong together",
    Exit.MATERIAL_REFUSED: "the key material is refused or unsuitable",
    Exit.TRY_LATER: "not now: try later; or the broker is out of reach",
    Exit.OUTCOME_UNKNOWN: "nobody knows whether the key was changed: look at it",
    Exit.BROKER_FAULT: "a fault of the broker",
    Exit.NOT_TOLD: "done, but the result could not be printed",
    Exit.DECLINED: "asked at the terminal, you did not say yes: nothing was done",
    Exit.INTERRUPTED: "interrupted",
}


class CommandFailed(Exception):
    """A command cannot go on.

    Args:
        message: one sentence, fit to be shown; it names the file or field at fault.
        code: how the process ends.
        next_step: one sentence, what to do about it.
    """

    def __init__(self, message: str, *, code: Exit, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.next_step = next_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure as it is told.

    Attributes:
        code: how the process ends.
        message: one sentence.
        next_step: one sentence, what to do about it; may be empty.
        reason: the bare word of an ``ErrorReason``; empty where the broker gave none.
        field: the request's field at fault, if one is.
        retry_after: seconds after which the same request can succeed, if the broker said so.
        metadata: the broker's further particulars.
    """

    code: Exit
    message: str
    next_step: str
    reason: str = ""
    field: str | None = None
    retry_after: float | None = None
    metadata: Mapping[str, str] | None = None


# From the particular to the general: the first class that fits decides.
_KINDS: Final[tuple[tuple[type[errors.KeyImportError], Exit, str], ...]] = (
    (errors.KeyIdMalformed, Exit.REQUEST_REFUSED, "Give the key id or key ARN as KMS shows it, in lower case."),
    (errors.AliasNotAllowed, Exit.REQUEST_REFUSED, "Give the key ARN that the alias stands for."),
    (errors.RegionNotServed, Exit.REQUEST_REFUSED, "Name the broker of the key's Region with --target."),
    (
        errors.WrappingRefused,
        Exit.REQUEST_REFUSED,
        "Leave out --wrapping-algorithm and --wrapping-key-spec, and the broker chooses what suits.",
    ),
    (errors.RequestRefused, Exit.REQUEST_REFUSED, "Mend what is named, and ask again."),
    (errors.ForeignAccount, Exit.CALLER_REFUSED, "Name the broker of the key's account with --target."),
    (errors.CallerUnauthenticated, Exit.CALLER_REFUSED, "Check --certificate: its SPIFFE ID and its validity."),
    (errors.CallerRefused, Exit.CALLER_REFUSED, "Ask the broker's operator for this operation on this key."),
    (
        errors.KeyNotFound,
        Exit.KEY_REFUSED,
        "Check the Region and the id; a key just created takes seconds to be found.",
    ),
    (errors.KeyNotExternal, Exit.KEY_REFUSED, "Create a key with origin EXTERNAL: an origin never changes."),
    (errors.KeyRefused, Exit.KEY_REFUSED, "Look at the key with `keyimport status`."),
    (errors.ImportTokenRefused, Exit.SET_REFUSED, "Get a new set with `keyimport get`, and wrap again."),
    (
        ParameterFilesRefused,
        Exit.SET_REFUSED,
        "Get a new set with `keyimport get`; the files of one set stay together.",
    ),
    (
        errors.WrappingKeyRejected,
        Exit.SET_REFUSED,
        "Do not wrap under it; ask the broker's operator who answers in its place.",
    ),
    (
        errors.KeyMaterialUnreadable,
        Exit.MATERIAL_REFUSED,
        "Wrap under this very set's public key with its hash, and give the bytes, not base64.",
    ),
    (
        errors.KeyMaterialRefused,
        Exit.MATERIAL_REFUSED,
        "Check the kind and size; into a key that had material goes the same material.",
    ),
    (errors.MaterialUnsuitable, Exit.MATERIAL_REFUSED, "Check the file and --form."),
    (errors.BrokerCredentials, Exit.TRY_LATER, "Tell the broker's operator: it lacks AWS credentials."),
    (errors.TryLater, Exit.TRY_LATER, "Try again later, or with a longer --timeout."),
    (errors.OutcomeUnknown, Exit.OUTCOME_UNKNOWN, "Look at the key with `keyimport status` before anything else."),
    (errors.BrokerFault, Exit.BROKER_FAULT, "Tell the broker's operator."),
)

# For reasons newer than this library, and for calls that broke off before the broker gave one.
_BY_CODE: Final[Mapping[str, tuple[Exit, str]]] = {
    "INVALID_ARGUMENT": (Exit.REQUEST_REFUSED, ""),
    "UNAUTHENTICATED": (Exit.CALLER_REFUSED, ""),
    "PERMISSION_DENIED": (Exit.CALLER_REFUSED, ""),
    "NOT_FOUND": (Exit.KEY_REFUSED, ""),
    "FAILED_PRECONDITION": (Exit.KEY_REFUSED, ""),
    "RESOURCE_EXHAUSTED": (Exit.TRY_LATER, ""),
    "UNAVAILABLE": (Exit.TRY_LATER, "Check --target, and that the broker runs there."),
    "CANCELLED": (Exit.TRY_LATER, "Try again: the broker stopped in the middle of the call."),
    "DEADLINE_EXCEEDED": (Exit.TRY_LATER, "Try again with a longer --timeout."),
    "UNIMPLEMENTED": (Exit.BROKER_FAULT, "The broker is older than this command; ask its operator for a newer one."),
}

# How gRPC words a TLS handshake that fails. Whatever else it says, it only says that nothing can be reached.
_UNPROVEN: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED|verification check failed|handshake failed", re.IGNORECASE)


def failure_of(error: Exception) -> Failure:
    """The failure that an error is; for an error nobody foresaw its class and where it arose, and none of its text."""
    match error:
        case CommandFailed():
            return Failure(code=error.code, message=error.message, next_step=error.next_step)
        case errors.KeyImportError():
            return _of_call(error)
        case OSError():
            return _of_file(error)
        case _:
            return Failure(
                code=Exit.INTERNAL,
                message=f"an error in keyimport itself: {type(error).__name__} at {_place(error)}",
                next_step="Please report it.",
            )


def _of_call(error: errors.KeyImportError) -> Failure:
    code, next_step = _BY_CODE.get(error.code.name if error.code else "", (Exit.BROKER_FAULT, ""))
    for kind, kinds_code, kinds_step in _KINDS:
        if isinstance(error, kind):
            code, next_step = kinds_code, kinds_step
            break
    if not error.reason and _UNPROVEN.search(error.message):
        next_step = "Check --ca, and the name in --target: whoever answers has not shown that he is the broker."
    next_step = getattr(error, "next_step", "") or next_step
    for name in ("allowed", "suitable", "regions"):
        if name in error.metadata:
            next_step = f"{name.capitalize()}: {error.metadata[name]}. {next_step}"
    if error.correlation_id:
        next_step = f"{next_step} Its log has this request as {error.correlation_id}."
    retry_after = None if error.retry_after is None else error.retry_after.total_seconds()
    if retry_after is not None:
        next_step = f"The same request can succeed in {retry_after:.0f} s. {next_step}"
    return Failure(
        code=code,
        message=f"{error.field}: {error}" if error.field else str(error),
        next_step=next_step.strip(),
        reason=error.reason,
        field=error.field,
        retry_after=retry_after,
        metadata=error.metadata,
    )


def _of_file(error: OSError) -> Failure:
    where = f"{error.filename}: " if error.filename else ""
    message = f"{where}{error.strerror or type(error).__name__}"
    if isinstance(error, FileExistsError):
        return Failure(code=Exit.USAGE, message=message, next_step="Name another one; nothing is overwritten.")
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return Failure(code=Exit.USAGE, message=message, next_step="Check the path.")
    return Failure(code=Exit.INTERNAL, message=message, next_step="Nothing half-written was left.")


def _place(error: Exception) -> str:
    """The innermost line of ours; an error's text could quote what must not be shown."""
    place, step = "an unknown line", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "")
        if module.startswith("keyimport"):
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place

"""What pydantic finds wrong with the settings, in words for an operator."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def sentences(error: ValidationError, known: Iterable[str]) -> Iterator[str]:
    """One line for each fault of a settings document: its path, and what is wrong there.

    Args:
        error: what pydantic found.
        known: every setting's name, to suggest one for a misspelt one.
    """
    faults = error.errors(include_url=False)
    for fault in faults:
        if fault["type"] == "too_short" and any(
            len(f["loc"]) > len(fault["loc"]) for f in faults if f["loc"][: len(fault["loc"])] == fault["loc"]
        ):
            continue  # a list whose every item is refused is then called empty
        yield f"{_path(fault)}: {_sentence(fault, known)}".removeprefix(": ")


def _path(fault: ErrorDetails) -> str:
    path = ""
    for part in fault["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _sentence(fault: ErrorDetails, known: Iterable[str]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            return "is no setting" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return "is missing"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            message = (
                fault["msg"]
                .removeprefix("Input ")
                .replace("Input should", "should")
                .replace("Tuple", "the list")
                .replace("tuple", "list")
            )
            return f"{message}, not {fault['input']!r}" if fault["type"] != "too_short" else message

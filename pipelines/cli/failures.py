"""What a failed run tells the shell: the exit codes, and which exception means which code.

Exceptions are recognised without importing torch or pydantic: whoever raised one has imported its class.
"""

from __future__ import annotations

import dis
import sys
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType

OUR_PACKAGES = frozenset({"operators", "workbench", "pipelines"})
CORE_REQUIREMENTS = frozenset({"torch", "numpy", "xarray"})
_RAISE = dis.opmap["RAISE_VARARGS"]
_DEVICE_ERRORS = frozenset({"OutOfMemoryError", "AcceleratorError"})
_DEVICE_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error",
    "CUDA out of memory",
    "Found no NVIDIA driver",
    "Torch not compiled with CUDA enabled",
    "No CUDA GPUs are available",
)


class ExitCode(IntEnum):
    """The exit codes of `workbench`; a verb ends early with `raise typer.Exit(ExitCode.SOME_FAILED)`."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    INPUT = 3
    RESOURCES = 4
    BUG = 70
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "ok",
    ExitCode.SOME_FAILED: "some cases failed",
    ExitCode.USAGE: "usage, configuration or a missing extra",
    ExitCode.INPUT: "input unreadable or output not writable",
    ExitCode.RESOURCES: "out of memory, or the device failed",
    ExitCode.BUG: "a bug in the workbench (traceback shown)",
    ExitCode.INTERRUPTED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as the user sees it."""

    code: ExitCode
    message: str


def explain(error: BaseException) -> Failure | None:
    """Return how to report `error` to the user, or None when it is a bug whose traceback matters.

    A ValueError, TypeError or FloatingPointError counts as the user's only where our own code executed a
    `raise`; the same types escaping from a library call, or from an operation that failed, are bugs.
    """
    if isinstance(error, KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "interrupted")
    if _is_missing_extra(error):
        return Failure(ExitCode.USAGE, str(error))
    if isinstance(error, ModuleNotFoundError) and error.name in CORE_REQUIREMENTS:
        text = f"the core package {error.name} is not installed. See: workbench doctor"
        return Failure(ExitCode.USAGE, text)
    if isinstance(error, MemoryError) or type(error).__name__ in _DEVICE_ERRORS:
        return Failure(ExitCode.RESOURCES, _resource_message(error))
    # torch reports "not compiled with CUDA" as an AssertionError.
    if isinstance(error, (RuntimeError, AssertionError)) and any(p in str(error) for p in _DEVICE_PHRASES):
        return Failure(ExitCode.RESOURCES, _resource_message(error))
    if isinstance(error, OSError):
        return Failure(ExitCode.INPUT, _file_message(error))
    # FloatingPointError: numbers left the precision, which other settings or float64 mend.
    if isinstance(error, (ValueError, TypeError, FloatingPointError)) and _raised_by_us(error.__traceback__):
        return Failure(ExitCode.USAGE, str(error))
    return None


def _is_missing_extra(error: BaseException) -> bool:
    extras = sys.modules.get("operators.extras")
    return extras is not None and isinstance(error, extras.MissingExtraError)


def _resource_message(error: BaseException) -> str:
    first_line = (str(error).strip() or "no details given").splitlines()[0]
    return f"out of memory, or the device failed: {first_line}"


def _file_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return reason
    names = [repr(str(name)) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {reason}"


def _raised_by_us(traceback: TracebackType | None) -> bool:
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    ours = str(frame.f_globals.get("__name__", "")).partition(".")[0] in OUR_PACKAGES
    return ours and frame.f_code.co_code[traceback.tb_lasti] == _RAISE

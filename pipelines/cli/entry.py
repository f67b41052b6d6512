"""The `workbench` command: a table of verbs, each imported only when it is called.

Data goes to stdout; messages, progress and warnings go to stderr. This module needs the standard library
only, so a missing `[cli]` extra is a sentence rather than a traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from pipelines.cli.failures import ExitCode, explain
from pipelines.cli.table import DEBUG_VARIABLE, PROGRAM, VERBS, version_line
from pipelines.config.nearest import nearest

_COMPLETION_VARIABLE = "_WORKBENCH_COMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv
        Arguments without the program name; the process's own by default.
    """
    _open_closed_streams()
    arguments, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            code = _dispatch(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (`| head`) has gone; without this the interpreter complains again as it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.SOME_FAILED
        except (Exception, KeyboardInterrupt) as error:
            code = _report(error, debug)
    return int(code)


def _open_closed_streams() -> None:
    """Give a stream that the shell closed (`>&-`) somewhere to go; Python has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open until the exit


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove `--debug` wherever it stands: one thinks of it after the command has failed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head = [argument for argument in arguments[:end] if argument != "--debug"]
    wanted = len(head) < end or os.environ.get(DEBUG_VARIABLE, "").lower() not in ("", "0", "false", "no")
    return head + arguments[end:], wanted


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        sys.stdout.write(version_line() + "\n")
        return ExitCode.OK
    verb = next((argument for argument in _words(arguments) if not argument.startswith("-")), None)
    if verb is not None and verb not in VERBS and _COMPLETION_VARIABLE not in os.environ:
        meant = nearest(verb, VERBS)
        hint = f"did you mean `{PROGRAM} {meant}`?" if meant else f"the verbs are {', '.join(VERBS)}."
        return _complain(f"`{verb}` is not a verb; {hint}", ExitCode.USAGE)
    _check_typer()
    from pipelines.cli.app import run

    code = run(arguments or ["--help"], verb if verb in VERBS else None)
    if code == ExitCode.INTERRUPTED:
        _complain("interrupted", ExitCode.INTERRUPTED)
    return code


def _words(arguments: list[str]) -> list[str]:
    """Return the words of the command line, which the shell passes by environment while completing."""
    if _COMPLETION_VARIABLE not in os.environ:
        return arguments
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


def _check_typer() -> None:
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        from operators.extras import require

        require(error.name or "typer", feature="The workbench command line", extra="cli")
        raise


def _report(error: BaseException, debug: bool) -> int:
    failure = explain(error)
    if failure is None:
        traceback.print_exception(error)
        text = "this is a bug in the workbench; please report it with the traceback above"
        return _complain(text, ExitCode.BUG)
    if debug:
        traceback.print_exception(error)
    return _complain(failure.message, failure.code)


def _complain(message: str, code: ExitCode) -> ExitCode:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line; where in the source it was raised helps only with --debug."""
    del filename, lineno, file, line
    sys.stderr.write(f"{PROGRAM}: {category.__name__}: {message}\n")

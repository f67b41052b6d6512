"""The typer application around the verb table; needs the `[cli]` extra."""

from __future__ import annotations

import importlib
import inspect
from typing import Annotated

import typer
from typer.main import get_command

from pipelines.cli.failures import MEANINGS
from pipelines.cli.table import DEBUG_VARIABLE, PROGRAM, VERBS, Verb, version_line

ABOUT = """Bayesian inverse problems for CT and MRI.

Start with `workbench doctor`, then `workbench demo`. Every verb has its own --help with an example.
Data is written to stdout, messages to stderr."""


def run(arguments: list[str], verb: str | None) -> int:
    """Run the command line, importing the module of `verb` only."""
    try:
        get_command(build(verb)).main(args=arguments, prog_name=PROGRAM)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def build(loaded: str | None) -> typer.Typer:
    """Return the application; verbs other than `loaded` are only lines in its help."""
    # Markup off: in rich's markup `[cli]`, as in the install commands, is a style and vanishes.
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=exit_codes(),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=ABOUT)(_root)
    for name, verb in VERBS.items():
        if name != loaded:
            app.command(name, help=verb.help)(_stub)
            continue
        target = getattr(importlib.import_module(verb.module), verb.attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=_teach(verb, None))
        else:
            app.command(name, help=_teach(verb, target.__doc__))(target)
    return app


def exit_codes() -> str:
    """Return the exit codes as they stand in the help."""
    rows = "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
    # \b keeps the line breaks.
    return f"\b\nExit codes:\n{rows}"


def _teach(verb: Verb, docstring: str | None) -> str:
    """Return the help of one verb: its line in the table, the body of its docstring, an example."""
    prose = inspect.cleandoc(docstring or "").partition("\nParameters\n---")[0].split("\n\n")[1:]
    example = f"\b\nExample:\n  {PROGRAM} {verb.example}"
    return "\n\n".join([verb.help, *(part.strip() for part in prose if part.strip()), example])


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error; also {DEBUG_VARIABLE}=1.")
    ] = False,
) -> None:
    # cli.main has already taken --debug; it is declared for the help.
    del debug
    if version:
        typer.echo(version_line())
        raise typer.Exit


def _stub() -> None:
    raise NotImplementedError("a verb's entry in the overview was called")

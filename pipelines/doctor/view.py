"""The doctor's report as text for people; needs rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    "ok": "green",
    "missing": "yellow",
    "outdated": "yellow",
    "incomplete": "yellow",
    "broken": "red",
    "note": "dim",
}
_GIB = 2**30
_NARROW = 60


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report: one line for each part, the extras, and what to type to get the missing ones."""
    rows = [
        [Text(name), Text(status, style=_STYLES.get(status, "")), Text(detail)]
        for name, status, detail in _rows(report)
    ]
    _show_table(rows, console)
    _show_extras(report["extras"], console)
    for advice in report["gl"]["advice"]:
        _line(console, f"viewer: {advice}")
    for problem in report["problems"]:
        _line(console, f"core: {problem}", "red")
    if report["healthy"]:
        _line(console, "The core works.", "green")
    else:
        _line(console, "The core does not work.", "bold red")


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    own = report["workbench"]
    version = own["version"] or "not installed (checkout)"
    yield "inverse-workbench", "ok" if own["version"] else "note", f"{version}, {own['location']}"
    yield "python", "ok", f"{report['python']['version']}, {report['platform']}"
    yield "torch", *_torch(report["torch"])
    for name in ("numpy", "xarray"):
        found = report[name]
        yield name, found["status"], found["detail"] or found["version"] or "not installed"
    threads = report["torch"].get("threads")
    suffix = f", torch uses {threads} threads" if threads else ""
    yield "CPU", "ok", f"{report['cpu']['usable']} of {report['cpu']['logical']} logical CPUs{suffix}"
    yield "memory", "ok", _memory(report["memory"])
    yield from _cuda(report["torch"])
    yield "ASTRA", *_astra(report["astra"])
    triton = report["triton"]
    detail = triton["detail"] or triton["version"] or "not installed (GPU kernels only)"
    yield "triton", triton["status"], detail
    yield "viewer (GL)", *_graphics(report["gl"])


def _torch(found: dict[str, Any]) -> tuple[str, str]:
    if found["status"] != "ok":
        return found["status"], found["detail"] or "not installed"
    return "ok", f"{found['version']}, {found['build']} build"


def _cuda(torch: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if torch["status"] != "ok":
        yield "CUDA", "note", "unknown without torch"
    elif torch["build"] == "cpu":
        yield "CUDA", "note", "none: this torch is a CPU build"
    elif not torch["cuda_available"]:
        yield "CUDA", "note", "none: torch finds no usable GPU or driver"
    for index, device in enumerate(torch.get("devices", ())):
        free, total = (device[key] / _GIB for key in ("free_bytes", "total_bytes"))
        yield f"CUDA {index}", "ok", f"{device['name']}, {free:.1f} of {total:.1f} GiB free"


def _astra(found: dict[str, Any]) -> tuple[str, str]:
    if found["status"] != "ok":
        return found["status"], found["detail"] or "not installed"
    reach = "2D and 3D on CUDA" if found["cuda"] else "CPU 2D only: no CUDA device for it"
    return "ok", f"{found['version']}, {reach}"


def _graphics(gl: dict[str, Any]) -> tuple[str, str]:
    qt = f"Qt by {gl['qt']}" if gl["qt"] else "no Qt binding"
    if gl["ready"] is None:
        return "note", f"{qt}, OpenGL not checked on this system"
    parts = [qt, *(f"{name} {'found' if gl[name] else 'not found'}" for name in ("libGL", "libEGL"))]
    parts.append(f"display {gl['display']}" if gl["display"] else "no display")
    parts.append("Xvfb found" if gl["xvfb"] else "no Xvfb")
    return ("ok" if gl["ready"] else "missing"), ", ".join(parts)


def _memory(memory: dict[str, Any]) -> str:
    total, available = memory["total_bytes"], memory["available_bytes"]
    if total is None:
        return "unknown"
    limit = " (container limit)" if memory["container_limit"] else ""
    free = "" if available is None else f"{available / _GIB:.1f} GiB available of "
    return f"{free}{total / _GIB:.1f} GiB{limit}"


def _show_extras(extras: dict[str, Any], console: Console) -> None:
    console.print()
    if not extras["listed"]:
        _line(console, extras["detail"], "yellow")
        console.print()
        return
    rows = []
    for extra in extras["extras"]:
        style = "green" if extra["complete"] else "yellow"
        if extra["name"] == "all":
            ready = sum(package["status"] == "ok" for package in extra["packages"])
            packages = Text(f"{ready} of its {len(extra['packages'])} packages")
        else:
            packages = Text(", ").join(_package(package) for package in extra["packages"])
        rows.append([Text(f"[{extra['name']}]", style=style), packages])
    _show_table(rows, console)
    console.print()
    for extra in extras["extras"]:
        if extra["install"]:
            _line(console, extra["install"])
    console.print()


def _package(package: dict[str, Any]) -> Text:
    words = {
        "ok": f"{package['name']} {package['version']}",
        "missing": f"{package['name']} missing",
        "outdated": f"{package['name']} {package['version']} (needs {package['needs']})",
        "incomplete": f"{package['name']} {package['version']} {package['detail']}",
        "broken": f"{package['name']} broken ({package['detail']})",
    }
    return Text(words[package["status"]], style=_STYLES[package["status"]])


def _show_table(rows: Sequence[Sequence[Text]], console: Console) -> None:
    """Print rows in columns, or one below the other where columns would cut words apart."""
    if console.width < _NARROW:
        for row in rows:
            console.print(Text("  ").join(row), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    for column in range(len(rows[0]) if rows else 0):
        last = column == len(rows[0]) - 1
        table.add_column(no_wrap=not last, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _line(console: Console, text: str, style: str = "") -> None:
    """Print one line that is never folded, so that a command in it can be copied whole."""
    console.print(Text(text, style=style), soft_wrap=True)

"""numba's `njit`, whose kernels on disk notice a change of anything that is compiled into them.

numba looks at the one file in which a kernel stands. The helpers and constants that it takes from other
modules are compiled into it as well: after an update of one of those the old code would go on running. Here
the sources of all modules of the kernel's package that its module imports, directly or not, and of this one
decide.

Importing this module needs numba.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from functools import cache as remembered
from importlib.util import find_spec
from typing import Any, Literal

import numba

__all__ = ["njit", "sources_digest"]


def njit(
    *,
    cache: bool = False,
    nogil: bool = False,
    inline: Literal["never", "always"] = "never",
    fastmath: bool | set[str] = False,
    error_model: Literal["python", "numpy"] = "python",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function of numbers, arrays and tuples, as numba.njit does; `cache` keeps it on disk."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel: Any = numba.njit(nogil=nogil, inline=inline, fastmath=fastmath, error_model=error_model)(
            function
        )
        # Switched off by NUMBA_DISABLE_JIT, numba returns the function.
        if cache and kernel is not function:
            _keep(kernel, sources_digest(function.__module__))
        return kernel  # type: ignore[no-any-return]

    return compiled


def _keep(kernel: Any, digest: str) -> None:
    """Let a kernel be kept on disk, as long as numba's own stamp and the digest stay the same."""
    try:
        kernel.enable_caching()
    except RuntimeError:
        # No folder may be written, neither beside the sources nor in the user's own: compiled each time.
        return
    kept = kernel._cache._cache_file
    kept._source_stamp = (kept._source_stamp, digest)


@remembered
def sources_digest(module: str) -> str:
    """Return a digest of a module's source and of those in its package that it is built on."""
    package = module.rpartition(".")[0]
    sources: dict[str, str] = {}
    # And this one: how it compiles is part of what is kept.
    waiting = [module, __name__]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        sources[name] = text = _source(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
                waiting.append(node.module)
            elif isinstance(node, ast.ImportFrom) and node.module == package:
                waiting += [f"{package}.{item.name}" for item in node.names]
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _source(module: str) -> str:
    spec = find_spec(module)
    loader: Any = spec.loader if spec is not None else None
    # A frozen program has none, and is stamped as a whole.
    return (loader.get_source(module) if hasattr(loader, "get_source") else None) or ""

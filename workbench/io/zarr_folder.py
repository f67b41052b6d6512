"""Draws in a folder that zarr, xarray and other languages read.

The folder is a group of zarr version 3, an xarray Dataset: `draws` with the axes (draw, [component],
[t], z, y, x), their coordinates in mm, `log_weight` where draws are weighted, and the frame, the unit,
the kind and the record in the attributes. `xarray.open_zarr(path)` reads it, during a run too: what is
not written yet is NaN, or -1 for tokens.

A chunk holds at most 1 MiB of one draw, a slab along its first axes, so that a draw and a slab through
all draws are both read without reading much else. Floating point numbers are not compressed: their last
bits are noise, and compressors save a tenth of the room for a half to a third of the speed (Gaussian
float32, one core: read at 1.3 GB/s as it is; 8 % smaller at 0.8 GB/s with zstd, 7 % at 0.7 with lz4, 11 %
at 0.5 with zstd, the last two after a byte shuffle). Tokens shrink to a twelfth with lz4, as fast.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators.errors import value_error
from operators.extras import require
from workbench.export import check_labels, coordinates, describe, draw_axes, header_from
from workbench.io.checks import check_unit
from workbench.io.whole import folder_written_whole, sync, written_whole
from workbench.store import Draws, Header, slab_shape

__all__ = ["ZarrDraws", "create_folder", "enlarge_folder", "fill_folder", "finish_folder", "read_zarr"]

CHUNK_BYTES = 2**20
_RUNNING = "running"  # the attribute `state` of a run under way
_FILL = {"f": np.nan, "c": complex(np.nan, np.nan), "i": -1}
_PLAIN = [{"name": "bytes", "configuration": {"endian": "little"}}]
_KEYS = {"name": "default", "configuration": {"separator": "/"}}


class ZarrDraws(Draws):
    """The first `count` draws of a folder, read from its files when they are asked for."""

    def __init__(self, folder: Path, count: int) -> None:
        self._path = folder / "draws"
        metadata = _json(self._path / "zarr.json")
        self._shape = (count, *(int(n) for n in metadata["shape"][1:]))
        self._numpy = np.dtype(metadata["data_type"])
        self._box = tuple(int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"])
        plain = metadata["codecs"] == _PLAIN and metadata["chunk_key_encoding"] == _KEYS
        self._is_plain = plain and self._box[0] == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, *space.shape)."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Their dtype."""
        return torch.from_numpy(np.empty(0, dtype=self._numpy)).dtype

    @property
    def sources(self) -> tuple[Path, ...]:
        """The folder."""
        return (self._path.parent,)

    def read(self, draws: slice, region: tuple[slice, ...] = ()) -> Tensor:
        """Return some draws, whole or a region of them."""
        chosen = range(self._shape[0])[draws]
        spans = [s.indices(n)[:2] for s, n in zip(region, self._shape[1:], strict=False)]
        spans += [(0, n) for n in self._shape[1 + len(spans) :]]
        if self._is_plain:
            return torch.from_numpy(self._read_plain(chosen, spans))
        where = (slice(chosen.start, chosen.stop, chosen.step), *(slice(a, b) for a, b in spans))
        try:
            array = zarr_module().open_array(self._path, mode="r")
            values = np.asarray(array[where], dtype=self._numpy)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise _damaged(self._path.parent, error) from error
        if self._numpy.kind == "i" and values.size and values.min() < 0:
            raise _damaged(self._path.parent, ValueError("some of its tokens were never written"))
        return torch.from_numpy(values if values.flags.writeable else values.copy())

    def check_whole(self) -> None:
        """Raise if chunks are missing or cut short, as far as their sizes tell."""
        size = math.prod(self._box) * self._numpy.itemsize if self._is_plain else None
        tiles = list(np.ndindex(*(-(-n // m) for n, m in zip(self._shape[1:], self._box[1:], strict=True))))
        for k in range(self._shape[0]):
            for tile in tiles:
                file = self._path.joinpath("c", str(k), *map(str, tile))
                if not file.is_file() or (size is not None and file.stat().st_size != size):
                    raise _damaged(self._path.parent, ValueError(f"{file} is not whole"))

    def _read_plain(self, draws: range, spans: list[tuple[int, int]]) -> NDArray[Any]:
        # zarr reads a chunk whole even where a line of it is asked for: with many draws, sixteen times
        # what a region through all of them needs. A chunk that is not compressed is its values in order.
        box = self._box[1:]
        result = np.empty((len(draws), *(b - a for a, b in spans)), dtype=self._numpy)
        parts = []
        for tile in itertools.product(
            *(range(a // n, -(-b // n)) for (a, b), n in zip(spans, box, strict=True))
        ):
            bounds = [
                (max(a, i * n), min(b, (i + 1) * n), a, i * n)
                for i, n, (a, b) in zip(tile, box, spans, strict=True)
            ]
            there = tuple(slice(low - start, high - start) for low, high, _, start in bounds)
            here = tuple(slice(low - a, high - a) for low, high, a, _ in bounds)
            parts.append((Path(*map(str, tile)), there, here))
        stored = self._numpy.newbyteorder("<")
        for row, k in enumerate(draws):
            for name, there, here in parts:
                file = self._path / "c" / str(k) / name
                try:
                    result[row][here] = np.memmap(file, dtype=stored, mode="r", shape=box)[there]
                except (FileNotFoundError, ValueError) as error:
                    raise _damaged(self._path.parent, error) from error
        return result


def zarr_module() -> ModuleType:
    """Return zarr, or say what to install."""
    return require("zarr", feature="Keeping draws in zarr", extra="io")


def read_zarr(folder: Path) -> tuple[Header, dict[str, Any], Tensor | None, bool]:
    """Return header, record, log-weights and whether the run is finished, or say why they are not there."""
    try:
        group, array = _json(folder / "zarr.json"), _json(folder / "draws" / "zarr.json")
        attributes = group["attributes"]
        header, record = header_from(attributes, array["shape"], np.dtype(array["data_type"]))
        values = {name: _values(folder / name) for name in coordinates(draw_axes(header.space))}
        check_labels(header, array["dimension_names"], values)
        units = array.get("attributes", {}).get("units")
        finished = attributes.get("state") != _RUNNING
        weights = None
        listed = group.get("consolidated_metadata", {}).get("metadata", {})
        if finished and ("log_weight" in listed or (folder / "log_weight").exists()):
            weights = torch.from_numpy(np.array(_values(folder / "log_weight"), dtype=np.float64))
            if bool(weights.isnan().any()):
                raise ValueError("some of its weights were never written")
    except (FileNotFoundError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    check_unit(folder, units, header.unit)
    return header, record, weights, finished


def create_folder(folder: Path, header: Header) -> None:
    """Make the folder of a run, all of it or nothing."""
    zarr_module()
    with folder_written_whole(folder) as partial:
        fill_folder(partial, header)


def fill_folder(folder: Path, header: Header) -> None:
    """Make of an empty folder that of a run that has not begun, and wait until it has reached the disk."""
    axes = draw_axes(header.space)
    dtype = np.dtype(str(header.dtype).removeprefix("torch."))
    is_integer = dtype.kind == "i"
    zarr = zarr_module()
    zarr.create_array(
        store=folder,
        name="draws",
        shape=(header.count, *header.space.shape),
        chunks=(1, *slab_shape(header.space.shape, CHUNK_BYTES // dtype.itemsize)),
        dtype=dtype,
        compressors=zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle") if is_integer else None,
        fill_value=_FILL[dtype.kind],
        dimension_names=[axis.name for axis in axes],
        attributes={"units": header.unit, "kind": str(header.kind)},
    )
    for name, (_, values, attributes) in coordinates(axes).items():
        _create(folder, name, values, attributes)
    _describe(folder, header, {}, finished=False)
    for file in folder.rglob("*"):
        sync(file)


def enlarge_folder(folder: Path, header: Header) -> None:
    """Make room for more draws; weights and record were those of fewer."""
    file = folder / "draws" / "zarr.json"
    metadata = _json(file)
    metadata["shape"][0] = header.count
    # Marked first: a kill before the end leaves a run that is not finished.
    _describe(folder, header, {}, finished=False)
    shutil.rmtree(folder / "log_weight", ignore_errors=True)
    _write_json(file, metadata)
    _describe(folder, header, {}, finished=False)


def finish_folder(
    folder: Path, header: Header, log_weights: Tensor | None, record: Mapping[str, Any]
) -> None:
    """Add weights and record."""
    if log_weights is not None:
        _create(folder, "log_weight", log_weights.numpy(), {}, dimension="draw")
        for file in (folder / "log_weight").rglob("*"):
            sync(file)
    _describe(folder, header, record, finished=True)


def open_for_writing(folder: Path) -> Any:
    """Return the array of draws."""
    zarr = zarr_module()
    # Also chunks that equal the fill value: a chunk that is not there is damage.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(folder / "draws", mode="r+")


def _describe(folder: Path, header: Header, record: Mapping[str, Any], *, finished: bool) -> None:
    """Write the group's metadata, with a copy of its arrays' for readers that want all at once."""
    arrays = {
        file.parent.name: _json(file)
        for file in sorted(folder.glob("*/zarr.json"))
        if finished or file.parent.name != "log_weight"
    }
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": describe(header, record) | ({} if finished else {"state": _RUNNING}),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    _write_json(folder / "zarr.json", group)


def _create(
    folder: Path, name: str, values: NDArray[Any], attributes: Mapping[str, str], dimension: str = ""
) -> None:
    dtype = "string" if values.dtype == object else values.dtype
    # Numbers that were never written are no numbers, whatever zarr leaves out to save room.
    missing = np.nan if values.dtype.kind == "f" else None
    array = zarr_module().create_array(
        store=folder,
        name=name,
        shape=values.shape,
        dtype=dtype,
        fill_value=missing,
        dimension_names=[dimension or name],
        attributes=dict(attributes),
        overwrite=True,
    )
    array[:] = values


def _values(folder: Path) -> NDArray[Any]:
    values: NDArray[Any] = zarr_module().open_array(folder, mode="r")[...]
    return values


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    with written_whole(file) as partial, partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
    sync(file.parent)


def _damaged(folder: Path, error: Exception) -> ValueError:
    remedy = (
        "Folders are written by ZarrStore and save_samples; of a damaged one, keep a copy and start anew."
    )
    absent = error.filename if isinstance(error, FileNotFoundError) else None
    what = repr(error) if absent is None else f"{absent} is missing"
    return value_error("path", "be an undamaged folder of draws", f"{folder}: {what}", remedy)

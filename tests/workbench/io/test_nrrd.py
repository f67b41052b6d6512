"""Voxels and world points are those that SimpleITK finds, or those that the header was written with."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators.grid import TimeAxis
from workbench.io.nrrd import read_nrrd

SHARED = Path(__file__).parents[4] / "shared" / "data"
OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # (z, y, x)
STEPS = "(2,0,0) (0,3,0) (0,0,4)"
BARE = {"space": None, "space_directions": None, "space_origin": None}
KINDS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
NAMES = {"i2": "short", "f4": "float", "f8": "double"}
REFUSED = """
type: block | must hold integers or floating point numbers, got .*type 'block'
encoding: hex | must be encoded as raw, text, gzip or bzip2, got .*encoding 'hex'. Such as
encoding: zrl | got .*encoding 'zrl'
endian: None | must state the order of its bytes, got .*endian ''. Write endian: little
sizes: 4 3 | must state a size of at least 1 for each dimension, got .*dimension 3, sizes 4 3
sizes: 4 3 0 | must state a size of at least 1
sizes: 4 3 two | must state numbers as its sizes, got .*'4 3 two'
dimension: None | must state a size of at least 1 for each dimension
space: outer | must state a space that the format knows, got .*'outer'. Such as space: RAS
space: right-posterior-superior | must state a space that the format knows
space units: "mm" "mm" "inch" | must state 3 units that are known, got .*inch.* Write lengths in mm
space units: "mm" "mm" | must state 3 units
space directions: (1,0,0) (0,1,0) | must state 3 space directions, each a vector or none
space directions: (1,0,0) (0,1,0) none | axis 2 with 2 entries of the kind '\\?\\?\\?'. Take
space directions: (1,0) (0,1) (1,1) | must state directions of the axes in space
space directions: (1,0,0) (0,1,0) (0,0,z) | must write vectors as .*, got .*'.0,0,z.'
space directions: (1,0,0) (0,1,0) (0,2,0) | must state a usable frame, got .*be invertible
space directions: (1,0,0) (0,1,0) (0,0,inf) | must state a usable frame, got .*finite
space directions: (1,0,0) (0,1,0) (0,0,1e308) | must state a usable frame
space origin: (nan,0,0) | must state a usable frame, got .*finite
space origin: (0,0) | must state directions of the axes in space, and an origin like them
kinds: domain domain | must state 3 kinds
kinds: domain domain list | axis 2 with 2 entries of the kind 'list'. Take one of its entries
kinds: domain domain vector | the kind 'vector'
kinds: domain domain RGB-color | the kind 'rgb-color'
kinds: complex domain domain | axis 0 with 4 entries of the kind 'complex'
kinds: domain domain time | must state directions of the axes in space
kinds: domain time time | must have 2 or 3 axes in space
line skip: -1 | must skip no lines and bytes or more
byte skip: -2 | must skip no lines and bytes or more
byte skip: one | must state numbers as its byteskip
line skip: 50 | must have as many lines as are skipped
byte skip: 99999999999999999999 | must hold the 48 bytes that the header states, got .*0 bytes
data file: s%d.raw 1 3 1 | must name as many data files as its sizes need, got .*3 of 2 dimensions
data file: s%d.raw 1 2 0 | must name 1 to 100000 data files
data file: s%d.raw 1 99999999999999999999 1 | must name 1 to 100000 data files
data file: LIST | must name as many data files as its sizes need, got .*0 of 2 dimensions
data file: LIST 2D | must name as many data files as its sizes need
"""


@pytest.fixture
def itk() -> Any:
    return pytest.importorskip("SimpleITK", reason="a second reader, from the [dev] extra")


def written(path: Path, array: Any = ARRAY, data: bytes | None = None, **changes: str | None) -> Path:
    """Write a header with `changes`, underscores for blanks, None for a field left out; and `data`."""
    fields: dict[str, str | None] = {
        "type": NAMES.get(array.dtype.str[1:], array.dtype.name),
        "dimension": str(array.ndim),
        "sizes": " ".join(map(str, array.shape[::-1])),
        "endian": "little",
        "encoding": "raw",
        "space": "left-posterior-superior",
        "space directions": STEPS,
        "space origin": "(10,20,30)",
        **{name.replace("_", " "): value for name, value in changes.items()},
    }
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    inside = b"" if "data file" in fields else b"\n" + (array.tobytes() if data is None else data)
    path.write_bytes(b"NRRD0005\n# a comment\n" + lines.encode() + inside)
    return path


def itk_image(itk: Any, array: Any, direction: Any = OBLIQUE) -> Any:
    image = itk.GetImageFromArray(array)
    n = image.GetDimension()
    image.SetSpacing((0.7, 1.5, 4.0)[:n])
    image.SetOrigin((-31.0, 12.5, 77.0)[:n])
    image.SetDirection(np.asarray(direction).ravel().tolist())
    return image


def check_as_itk(itk: Any, path: Path, volume: Any) -> None:
    """Values and the world points of all corners are those that SimpleITK gives for `path`."""
    image = itk.ReadImage(str(path))
    values = itk.GetArrayFromImage(image)
    assert np.array_equal(volume.data.numpy().reshape(values.shape), values)
    assert volume.data.numpy().dtype == values.dtype
    sizes = [*image.GetSize(), 1][:3]
    for corner in np.ndindex(2, 2, 2):
        index = [int(c * (size - 1)) for c, size in zip(corner, sizes, strict=True)]
        left, back, up = [*image.TransformIndexToPhysicalPoint(index[: image.GetDimension()]), 0.0][:3]
        assert np.abs(volume.grid.index_to_world(index[::-1]) - (-left, -back, up)).max() < 1e-9


def shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs ../shared/data/{name}")
    return SHARED / name


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_an_oblique_image_is_where_simpleitk_has_it(
    tmp_path: Path, itk: Any, suffix: str, compressed: bool, mirrored: bool
) -> None:
    direction = OBLIQUE * [1, 1, -1 if mirrored else 1]
    path = tmp_path / f"a{suffix}"
    itk.WriteImage(itk_image(itk, ARRAY, direction), str(path), compressed)
    volume = read_nrrd(path)  # and no warning
    check_as_itk(itk, path, volume)
    assert (volume.space, volume.unit, volume.grid.shape) == ("scanner", "", (2, 3, 4))
    assert volume.grid.spacing == pytest.approx((4.0, 1.5, 0.7))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_in_both_byte_orders_and_as_text(tmp_path: Path, itk: Any, kind: str) -> None:
    limits = np.finfo(kind) if kind[0] == "f" else np.iinfo(kind)
    array = np.array([limits.min, limits.max, 0, 1, 2, 3], kind).reshape(1, 2, 3)
    itk.WriteImage(itk_image(itk, array), str(tmp_path / "a.nrrd"))
    check_as_itk(itk, tmp_path / "a.nrrd", read_nrrd(tmp_path / "a.nrrd"))
    swapped = array.astype(array.dtype.newbyteorder(">")).tobytes()
    text = " ".join(map(repr, array.ravel().tolist())).encode()
    for data, encoding, endian in [(swapped, "raw", "big"), (text, "ascii", None), (text, "txt", "little")]:
        back = read_nrrd(written(tmp_path / "b.nrrd", array, data, endian=endian, encoding=encoding))
        assert np.array_equal(back.data.numpy(), array)
        assert back.data.numpy().dtype == np.dtype(kind)


def test_types_by_their_other_names(tmp_path: Path) -> None:
    names = "signed char, uchar, signed short int, unsigned short, int32_t, unsigned int, long long int"
    names += ", unsigned long long, float, double, longlong, ulonglong, uint8_t, unsigned long long int"
    kinds = [*KINDS, "i8", "u8", "u1", "u8"]
    for name, kind in zip(names.split(", "), kinds, strict=True):
        data = bytes(24 * np.dtype(kind).itemsize)
        assert read_nrrd(written(tmp_path / "a.nrrd", data=data, type=name)).data.numpy().dtype == kind


@pytest.mark.filterwarnings("ignore:.*states no frame:UserWarning")
@pytest.mark.parametrize(("kind", "shape"), [("c8", (3, 4)), ("c16", (2, 3, 4))])
def test_complex_images_of_simpleitk(tmp_path: Path, itk: Any, kind: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) * (1 - 2j)).astype(kind)
    path = tmp_path / "a.nrrd"
    itk.WriteImage(itk_image(itk, array, np.eye(2) if len(shape) == 2 else OBLIQUE), str(path), True)
    check_as_itk(itk, path, read_nrrd(path))
    assert read_nrrd(path).space == ("unknown" if len(shape) == 2 else "scanner")


def test_complex_parts_may_be_integers_and_any_axis(tmp_path: Path) -> None:
    parts = np.arange(48, dtype=np.int16).reshape(2, 2, 3, 4)
    last = {"kinds": "domain domain domain complex", "space_directions": STEPS + " none"}
    data = read_nrrd(written(tmp_path / "a.nrrd", parts, **last)).data
    assert data.dtype == torch.complex64
    assert np.array_equal(data.numpy(), parts[0] + 1j * parts[1])
    with pytest.raises(ValueError, match="parts that a double holds, got .*int64"):
        read_nrrd(written(tmp_path / "b.nrrd", parts.astype("i8"), **last))


@pytest.mark.parametrize(
    ("names", "signs"),
    [
        ("right-anterior-superior RAS ras", (1, 1, 1)),
        ("left-anterior-superior LAS", (-1, 1, 1)),
        ("left-posterior-superior LPS", (-1, -1, 1)),
    ],
)
def test_frames_of_the_patient(tmp_path: Path, itk: Any, names: str, signs: tuple[int, int, int]) -> None:
    for name in names.split():
        volume = read_nrrd(written(tmp_path / "a.nrrd", space=name))
        world = np.array(signs) * (10 + 2 * 3, 20 + 3 * 2, 30 + 4 * 1)
        assert np.array_equal(volume.grid.index_to_world((1, 2, 3)), world)
        assert volume.space == "scanner"
        check_as_itk(itk, tmp_path / "a.nrrd", volume)


@pytest.mark.parametrize(
    ("changes", "why", "sign"),
    [
        ({"space": "scanner-xyz"}, "the space scanner-xyz is not the patient's", 1),
        ({"space": "3D-right-handed"}, "the space 3d-right-handed is not", 1),
        ({"space": "3D-left-handed"}, "the space 3d-left-handed is not", -1),
        ({"space": None, "space_dimension": "3"}, "no space is stated", 1),
        ({"space_origin": None}, "no space origin stated", 1),
        ({"space_directions": None, "spacings": "2 3 4"}, "no space directions stated", 1),
    ],
)
def test_frames_that_nobody_stated_are_unknown(tmp_path: Path, changes: Any, why: str, sign: int) -> None:
    path = written(tmp_path / "a.nrrd", **changes)
    with pytest.warns(UserWarning, match=rf"states no frame \({why}.*its place and orientation are a guess"):
        volume = read_nrrd(path)
    assert (volume.space, volume.grid.spacing) == ("unknown", (4.0, 3.0, 2.0))
    # (x, y, z) of a right-handed space are a right-handed triple of the world: nothing is mirrored.
    assert np.sign(np.linalg.det(volume.grid.nifti_affine[:3, :3])) == sign


def test_a_plane_is_one_slice_also_where_it_stands_upright(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd", ARRAY[0], space="RAS", space_directions="(0,2,0) (0,0,-3)")
    grid = read_nrrd(path).grid
    assert (grid.shape, grid.spacing, abs(grid.directions[0, 0])) == ((1, 3, 4), (1.0, 3.0, 2.0), 1.0)
    assert np.array_equal(grid.index_to_world((0, 2, 3)), (10, 20 + 6, 30 - 6))
    path = written(tmp_path / "b.nrrd", ARRAY[0], **BARE, spacings="2 3", units='"cm" "um"')
    with pytest.warns(UserWarning, match="no space is stated"):
        assert read_nrrd(path).grid.spacing == pytest.approx((1.0, 3e-3, 20.0))


@pytest.mark.parametrize(
    ("kinds", "sizes", "directions"),
    [
        ("stub domain domain domain", "1 4 3 2", "none " + STEPS),
        ("domain domain scalar domain", "4 3 1 2", "(2,0,0) (0,3,0) none (0,0,4)"),
        ("space ??? none", "4 3 2", STEPS),
        ("scalar space space space", "1 4 3 2", "(nan,nan,nan) " + STEPS),
    ],
)
def test_axes_of_one_entry_are_none(tmp_path: Path, kinds: str, sizes: str, directions: str) -> None:
    changes = {"dimension": str(len(sizes.split())), "sizes": sizes, "kinds": kinds}
    volume = read_nrrd(written(tmp_path / "a.nrrd", **changes, space_directions=directions))
    assert np.array_equal(volume.data.numpy(), ARRAY)
    assert volume.grid.spacing == (4.0, 3.0, 2.0)


def test_time_is_the_axis_in_front_wherever_it_lies(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.float32).reshape(5, 2, 3, 4)
    last = {"kinds": "domain domain domain time", "space_directions": STEPS + " none"}
    units = {"spacings": "nan nan nan 250", "units": '"" "" "" "ms"'}
    volume = read_nrrd(written(tmp_path / "a.nrrd", array, **last, **units))
    assert volume.grid.time == TimeAxis(5, 0.25)
    assert np.array_equal(volume.data.numpy(), array)
    first = {"kinds": "time domain domain domain", "space_directions": "none " + STEPS}
    turned = np.ascontiguousarray(np.moveaxis(array, 0, -1))
    back = read_nrrd(written(tmp_path / "b.nrrd", turned, **first, spacings="0.25 nan nan nan"))
    assert back.grid == volume.grid
    assert torch.equal(back.data, volume.data)
    with pytest.warns(UserWarning, match="states no time step: 1 s is taken"):
        assert read_nrrd(written(tmp_path / "c.nrrd", array, **last)).grid.time == TimeAxis(5, 1.0)
    with pytest.raises(ValueError, match="must state a usable time axis, got .*step"):
        read_nrrd(written(tmp_path / "d.nrrd", array, **last, spacings="nan nan nan -2"))
    with pytest.raises(ValueError, match=r"kind '\?\?\?'. Take one of its entries .* or state its kind"):
        read_nrrd(written(tmp_path / "e.nrrd", array, **BARE, spacings="1 1 1 1"))
    with pytest.raises(ValueError, match="A fourth axis that is time says so: kinds: domain domain domain"):
        read_nrrd(written(tmp_path / "f.nrrd", array, **BARE, kinds="domain domain domain domain"))


@pytest.mark.parametrize("space", ["right-anterior-superior-time", "RAST"])
def test_a_space_with_time(tmp_path: Path, space: str) -> None:
    array = np.zeros((5, 2, 3, 4), np.float32)
    steps = "(2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,0.5)"
    changes = {"space": space, "kinds": "domain domain domain time", "space_units": '"mm" "mm" "cm" "s"'}
    changes |= {"space_directions": steps, "space_origin": "(10,20,30,1.5)"}
    grid = read_nrrd(written(tmp_path / "a.nrrd", array, **changes)).grid
    assert (grid.time, grid.spacing) == (TimeAxis(5, 0.5, 1.5), (40.0, 3.0, 2.0))
    assert np.array_equal(grid.index_to_world((0, 0, 0)), (10, 20, 300))
    changes["space_directions"] = steps.replace("3,0,0)", "3,0,0.1)")
    with pytest.raises(ValueError, match="keep space and time apart"):
        read_nrrd(written(tmp_path / "a.nrrd", array, **changes))


@pytest.mark.parametrize(("name", "pack"), [("gz", gzip.compress), ("bzip2", bz2.compress)])
def test_packed_data(tmp_path: Path, name: str, pack: Any) -> None:
    whole = pack(ARRAY.tobytes())
    members = pack(ARRAY.tobytes()[:20]) + pack(ARRAY.tobytes()[20:])  # as parallel packers write
    assert np.array_equal(read_nrrd(written(tmp_path / "a.nrrd", data=members, encoding=name)).data, ARRAY)
    (tmp_path / "a.raw").write_bytes(b"first line\nsecond\n" + pack(b"12345" + ARRAY.tobytes()))
    skips = {"line_skip": "2", "byte_skip": "5"}  # lines before unpacking, bytes after it
    path = written(tmp_path / "b.nhdr", encoding=name, data_file="a.raw", **skips)
    assert np.array_equal(read_nrrd(path).data, ARRAY)
    sums = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]  # gzip's checksum
    for damaged in (whole[:-9], whole[:30], whole[:15] + b"\xff\xff\xff" + whole[18:], b"nothing", sums):
        with pytest.raises(ValueError, match="must be undamaged|must hold the 48 bytes"):
            read_nrrd(written(tmp_path / "c.nrrd", data=damaged, encoding=name))
    with pytest.raises(ValueError, match="must be raw for a byte skip of -1"):
        read_nrrd(written(tmp_path / "d.nrrd", data=whole, encoding=name, byte_skip="-1"))


@pytest.mark.parametrize(
    ("before", "after", "skips"),
    [
        (b"", b"", {}),
        (b"P5\n4 3\n", b"", {"line_skip": "2"}),
        (b"a line\nabc", b"more", {"line skip": "1", "byteskip": "3"}),
        (b"a head of unknown length", b"", {"byte_skip": "-1"}),
    ],
)
def test_raw_data_behind_what_is_skipped(tmp_path: Path, before: bytes, after: bytes, skips: Any) -> None:
    (tmp_path / "the data.raw").write_bytes(before + ARRAY.tobytes() + after)
    path = written(tmp_path / "a.nhdr", data_file="./the data.raw", **skips)
    assert np.array_equal(read_nrrd(path).data, ARRAY)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("s%d.raw 1 2 1", "s1.raw s2.raw"),
        ("s%03d.raw 7 3 -4 2", "s007.raw s003.raw"),
        ("s%d.raw 0 1 1 3", "s0.raw s1.raw"),
        ("s%02d.raw 1 6 1 1", "s01.raw s02.raw s03.raw s04.raw s05.raw s06.raw"),
        ("LIST\nb.raw\na.raw", "b.raw a.raw"),
        ("LIST 3\none.raw", "one.raw"),
    ],
)
def test_data_in_several_files(tmp_path: Path, said: str, names: str) -> None:
    files = names.split()
    for name, part in zip(files, np.split(ARRAY.reshape(-1), len(files)), strict=True):
        (tmp_path / name).write_bytes(b"h" + part.tobytes())
    path = written(tmp_path / "a.nhdr", byte_skip="1", data_file=said)
    assert np.array_equal(read_nrrd(path).data, ARRAY)
    (tmp_path / files[-1]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"must name data files that exist, got .*{files[-1]}\. Keep"
    ):
        read_nrrd(path)


def test_keys_of_others_and_windows_lines_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd", content="Doe^Jane", sample_units="Doe", labels='"x" "y" "z"')
    head = path.read_bytes().partition(b"\n\n")[0] + b"\nname:=Doe^Jane\ntype: of:=mine\ntype: of:=yours"
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + ARRAY.tobytes())
    volume = read_nrrd(path)
    assert np.array_equal(volume.data, ARRAY)
    assert "Doe" not in repr(volume)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, line: str) -> None:
    change, _, message = line.partition(" | ")
    field, _, value = change.partition(": ")
    with pytest.raises(ValueError, match=r"`path` must .*, got .*a\.nrrd: ") as error:
        read_nrrd(written(tmp_path / "a.nrrd", **{field: None if value == "None" else value}))
    assert error.match(message)

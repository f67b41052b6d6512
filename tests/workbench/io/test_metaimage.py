"""Voxels and world points are those that SimpleITK finds, or those that the header was written with."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workbench.io.test_nrrd import ARRAY, KINDS, OBLIQUE, check_as_itk, itk, itk_image, shared
from workbench.io.metaimage import read_metaimage

__all__ = ["itk"]
TYPES = ["CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG_LONG", "ULONG_LONG", "FLOAT", "DOUBLE"]
PAIRS = "registration/itk_2d_pairs/BrainProtonDensitySlice"
NO_FRAME = "ignore:.*states no frame:UserWarning"
REFUSED = """
ObjectType = Mesh | must leave objecttype out or say image, got .*'Mesh'
BinaryData = False | must hold binary data, got .*numbers as text. Convert it first: BinaryData = True
BinaryDataByteOrderMSB = perhaps | must say True or False as its binarydatabyteordermsb
CompressedData = | must say True or False as its compresseddata
CenterOfRotation = 0 1 0 | must leave centerofrotation out or say 0, got .*ITK passes over it
ElementToIntensityFunctionSlope = 2.5 | must leave elementtointensityfunctionslope out or say 1
ElementToIntensityFunctionOffset = -1024 | must leave elementtointensityfunctionoffset out or say 0
NDims = 2 | must have 2 or 3 axes, each with its size, got .*NDims 2, DimSize 4 3 2
DimSize = 4 3 2 5 | got .*DimSize 4 3 2 5. The format names no axis of time
DimSize = 4 3 0 | must have 2 or 3 axes, each with its size
DimSize = 4 3 many | must state numbers as its dimsize, got .*'4 3 many'
DimSize = 9999999999 9999999999 9999999999 | must hold the 1999.* bytes that the header states
ElementType = MET_STRING | must hold integers or floating point numbers, got .*'MET_STRING'
ElementType = MET_LONG | must hold the 96 bytes that the header states, got .*48 bytes. Is it whole
ElementType = None | must hold integers or floating point numbers
ElementNumberOfChannels = 3 | must hold one number for each voxel, got .*3 channels. Write one file for each
ElementNumberOfChannels = two | must state numbers as its elementnumberofchannels
ElementSpacing = 1 2 | must state 3 numbers as its elementspacing
ElementSpacing = 1 2 0 | must have an ElementSpacing above 0
ElementSpacing = 1 2 nan | must state a usable frame, got .*finite
ElementSpacing = 1 2 1e308 | must state a usable frame
Offset = inf 0 0 | must state a usable frame, got .*finite
TransformMatrix = 1 0 0 0 1 0 | must state 9 numbers as its transformmatrix
TransformMatrix = 1 0 0 0 1 0 0 1 0 | must state a usable frame, got .*be invertible
DistanceUnits = inch | must be in mm, cm or um, got .*'inch'. Write it in mm
HeaderSize = 5 | must skip bytes of raw data in their own files only
HeaderSize = -2 | must skip bytes of raw data in their own files only
ElementDataFile = None | must say where its data are
ElementDataFile = LIST | must name as many data files as its sizes need, got .*0 of 2 dimensions
ElementDataFile = s%d.raw 1 3 1 | must name as many data files as its sizes need, got .*3 of 2 dimensions
ElementDataFile = s%d.raw 2 1 1 | must name 1 to 100000 data files
Offset = 0 0 0 \\nPosition = 0 0 0 | each key once, got .*offset twice
A line | must begin with lines such as NDims = 3, each key once, got .*another line
"""


def written(path: Path, array: Any = ARRAY, data: bytes | None = None, **changes: str | None) -> Path:
    """Write a header with `changes`, None for a key left out; `ElementDataFile` comes last, then `data`."""
    n = array.ndim
    fields: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": str(n),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(map(str, np.eye(n, dtype=int).ravel())),
        "Offset": "10 20 30"[: 3 * n - 1],
        "CenterOfRotation": "0 0 0"[: 2 * n - 1],
        "AnatomicalOrientation": "RAI"[:n],
        "ElementSpacing": "2 3 4"[: 2 * n - 1],
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": "MET_" + TYPES[KINDS.index(array.dtype.str[1:])],
        **changes,
    }
    last = fields.pop("ElementDataFile", "LOCAL")
    lines = "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)
    lines += "" if last is None else f"ElementDataFile = {last}\n"
    inside = (array.tobytes() if data is None else data) if last == "LOCAL" else b""
    path.write_bytes(lines.replace("A line = \n", "A line\n").encode() + inside)
    return path


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_an_oblique_image_is_where_simpleitk_has_it(
    tmp_path: Path, itk: Any, suffix: str, compressed: bool, mirrored: bool
) -> None:
    direction = OBLIQUE * [1, 1, -1 if mirrored else 1]
    path = tmp_path / f"a{suffix}"
    itk.WriteImage(itk_image(itk, ARRAY, direction), str(path), compressed)
    volume = read_metaimage(path)  # and no warning
    check_as_itk(itk, path, volume)
    assert (volume.space, volume.unit, volume.grid.shape) == ("scanner", "", (2, 3, 4))
    assert volume.grid.spacing == pytest.approx((4.0, 1.5, 0.7))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_and_both_byte_orders(tmp_path: Path, itk: Any, kind: str) -> None:
    limits = np.finfo(kind) if kind[0] == "f" else np.iinfo(kind)
    array = np.array([limits.min, limits.max, 0, 1, 2, 3], kind).reshape(1, 2, 3)
    itk.WriteImage(itk_image(itk, array), str(tmp_path / "a.mha"), True)
    check_as_itk(itk, tmp_path / "a.mha", read_metaimage(tmp_path / "a.mha"))
    swapped = array.astype(array.dtype.newbyteorder(">")).tobytes()
    for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"):
        changes: dict[str, str | None] = {"BinaryDataByteOrderMSB": None, key: "True"}
        path = written(tmp_path / "b.mha", array, swapped, **changes)
        back = read_metaimage(path)
        check_as_itk(itk, path, back)
        assert np.array_equal(back.data.numpy(), array)


@pytest.mark.filterwarnings(NO_FRAME)
@pytest.mark.parametrize(("kind", "shape"), [("c8", (3, 4)), ("c16", (2, 3, 4))])
def test_two_channels_are_complex_where_the_caller_says_so(
    tmp_path: Path, itk: Any, kind: str, shape: tuple[int, ...]
) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) * (1 - 2j)).astype(kind)
    path = tmp_path / "a.mha"
    itk.WriteImage(itk_image(itk, array, np.eye(2) if len(shape) == 2 else OBLIQUE), str(path), True)
    volume = read_metaimage(path, channels="complex")
    assert np.array_equal(volume.data.numpy().reshape(shape), array)
    assert volume.data.numpy().dtype == kind
    with pytest.raises(ValueError, match="got .*2 channels. The format does not say .*: channels='complex'"):
        read_metaimage(path)
    with pytest.raises(TypeError, match="`dtype` must hold the file's values, of torch.complex"):
        read_metaimage(path, channels="complex", dtype=torch.float32)


def test_channels_that_are_no_parts_of_numbers_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mha")
    with pytest.raises(ValueError, match="`channels` must be None but for two .* got 1 of type int16 in"):
        read_metaimage(path, channels="complex")
    path = written(tmp_path / "b.mha", ARRAY, bytes(96), ElementNumberOfChannels="2")
    with pytest.raises(ValueError, match="got 2 of type int16"):
        read_metaimage(path, channels="complex")
    with pytest.raises(ValueError, match="got .*2 channels. Write one file for each channel"):
        read_metaimage(path)
    with pytest.raises(ValueError, match="`channels` must be 'complex' or None, got 'vector'"):
        read_metaimage(path, channels="vector")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"AnatomicalOrientation": None}, "no AnatomicalOrientation is stated"),
        ({"AnatomicalOrientation": "???"}, "no AnatomicalOrientation is stated"),
        ({"AnatomicalOrientation": "LPS"}, "its AnatomicalOrientation, LPS, is another than its TransformM"),
        ({"TransformMatrix": "1 0 0 0 -1 0 0 0 1"}, "its AnatomicalOrientation, RAI, is another"),
        ({"Offset": None}, "no Offset is stated"),
    ],
)
def test_frames_that_nobody_stated_are_unknown(tmp_path: Path, itk: Any, changes: Any, why: str) -> None:
    path = written(tmp_path / "a.mha", **changes)
    with pytest.warns(UserWarning, match=rf"states no frame \({why}.*its place and orientation are a guess"):
        volume = read_metaimage(path)
    assert volume.space == "unknown"
    check_as_itk(itk, path, volume)


def test_other_names_of_the_frame_and_other_units(tmp_path: Path) -> None:
    changes = {"Offset": None, "TransformMatrix": None, "DistanceUnits": "cm", "AnatomicalOrientation": "LAI"}
    for offset, matrix in (("Position", "Orientation"), ("Origin", "Rotation")):
        path = written(tmp_path / "a.mha", **changes, **{offset: "10 20 30", matrix: "-1 0 0 0 1 0 0 0 1"})
        volume = read_metaimage(path)
        assert np.array_equal(volume.grid.index_to_world((0, 0, 0)), (-100, -200, 300))
        assert np.array_equal(volume.grid.index_to_world((1, 2, 3)), (-100 + 60, -200 - 60, 300 + 40))
        assert volume.space == "scanner"


def test_a_spacing_that_is_not_stated_is_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="states no ElementSpacing: 1 mm is taken") as caught:
        assert read_metaimage(written(tmp_path / "a.mha", ElementSpacing=None)).grid.spacing == (1, 1, 1)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.filterwarnings(NO_FRAME)
def test_a_plane_is_one_slice(tmp_path: Path, itk: Any) -> None:
    turned = "0.8 0.6 -0.6 0.8"
    path = written(tmp_path / "a.mha", ARRAY[0], TransformMatrix=turned, AnatomicalOrientation="??")
    volume = read_metaimage(path)
    check_as_itk(itk, path, volume)
    assert (volume.grid.shape, volume.space) == ((1, 3, 4), "unknown")
    assert volume.grid.spacing == pytest.approx((1.0, 3.0, 2.0))


@pytest.mark.parametrize(
    ("said", "names", "skip"),
    [
        ("the data.raw", ["the data.raw"], "0"),
        ("the data.raw", ["the data.raw"], "7"),
        ("the data.raw", ["the data.raw"], "-1"),
        ("LIST\nb.raw\na.raw", ["b.raw", "a.raw"], "0"),
        ("LIST 1\n" + "\n".join("fedcba"), list("fedcba"), "7"),
        ("s%03d.raw 7 3 -4 2", ["s007.raw", "s003.raw"], "-1"),
    ],
)
def test_data_in_files_of_their_own(tmp_path: Path, said: str, names: list[str], skip: str) -> None:
    for name, part in zip(names, np.split(ARRAY.reshape(-1), len(names)), strict=True):
        (tmp_path / name).write_bytes((b"" if skip == "0" else b"7 bytes") + part.tobytes())
    path = written(tmp_path / "a.mhd", ElementDataFile=said, HeaderSize=skip)
    assert np.array_equal(read_metaimage(path).data, ARRAY)
    (tmp_path / names[-1]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"must name data files that exist, got .*{names[-1]}\. Keep"
    ):
        read_metaimage(path)


def test_packed_data_and_such_as_are_damaged(tmp_path: Path) -> None:
    whole = zlib.compress(ARRAY.tobytes())
    for data in (whole, gzip.compress(ARRAY.tobytes())):
        path = written(
            tmp_path / "a.mha", data=data, CompressedData="True", CompressedDataSize=str(len(data))
        )
        assert np.array_equal(read_metaimage(path).data, ARRAY)
    more = zlib.compress(ARRAY.tobytes() + b"more")
    wrong_sum = whole[:-1] + bytes([whole[-1] ^ 1])
    for data in (whole[:-1], whole[:20], whole[:12] + b"\xff" + whole[13:], b"none", wrong_sum, more, b""):
        with pytest.raises(ValueError, match="must be undamaged zlib data|must hold the 48 bytes"):
            read_metaimage(written(tmp_path / "b.mha", data=data, CompressedData="True"))
    (tmp_path / "a.zraw").write_bytes(b"1234567" + whole)
    changes = {"ElementDataFile": "a.zraw", "CompressedData": "True"}
    assert np.array_equal(read_metaimage(written(tmp_path / "c.mhd", HeaderSize="7", **changes)).data, ARRAY)
    with pytest.raises(ValueError, match="must skip bytes of raw data in their own files only, got .*-1"):
        read_metaimage(written(tmp_path / "d.mhd", HeaderSize="-1", **changes))


def test_too_few_and_too_many_bytes_are_refused(tmp_path: Path) -> None:
    for data, got in [(ARRAY.tobytes()[:-1], "47 bytes"), (ARRAY.tobytes() + b"1", "more"), (b"", "0 bytes")]:
        with pytest.raises(
            ValueError, match=f"must hold the 48 bytes that the header states, got .*: {got}. Is"
        ):
            read_metaimage(written(tmp_path / "a.mha", data=data))


def test_keys_of_others_are_passed_over(tmp_path: Path, itk: Any) -> None:
    image = itk_image(itk, ARRAY)
    for key, value in {"0010|0010": "Doe^Jane", "Some Key: x": "a = b: c", "Modality": "MR"}.items():
        image.SetMetaData(key, value)
    itk.WriteImage(image, str(tmp_path / "a.mha"))
    assert b"Doe^Jane" in (tmp_path / "a.mha").read_bytes()
    volume = read_metaimage(tmp_path / "a.mha")
    check_as_itk(itk, tmp_path / "a.mha", volume)
    assert "Doe" not in repr(volume)
    path = written(tmp_path / "b.mha", ARRAY.astype("u1"), Comment="Doe", CenterOfRotation="0.0 -0 0")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 14))  # the header's lines
    assert np.array_equal(read_metaimage(path).data, ARRAY)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, line: str) -> None:
    change, _, message = line.partition(" | ")
    field, _, value = change.replace("\\n", "\n").partition(" = ")
    value = value.removesuffix("=")
    field = field.removesuffix(" =")
    with pytest.raises(ValueError, match=r"`path` must .*, got .*a\.mha: ") as error:
        read_metaimage(written(tmp_path / "a.mha", **{field: None if value == "None" else value}))
    assert error.match(message)


def test_what_is_no_path_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in .mha or .mhd, got 'a.nrrd'"):
        read_metaimage("a.nrrd")
    with pytest.raises(TypeError, match="`dtype` must be a torch.dtype, got 'float32'"):
        read_metaimage("a.mha", dtype="float32")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_metaimage(tmp_path / "absent.mha")
    for content in (b"", b"\x00\x01\x02\n", b"P5\n"):
        (tmp_path / "a.mha").write_bytes(content)
        with pytest.raises(ValueError, match="`path` must (have 2 or 3 axes|begin with lines)"):
            read_metaimage(tmp_path / "a.mha")


@pytest.mark.filterwarnings(NO_FRAME)
@pytest.mark.parametrize(
    "name",
    [
        f"{PAIRS}Border20.mhd",
        f"{PAIRS}Border20DirectionMinus30.mhd",
        f"{PAIRS}Shifted13x17yDirectionPlus30.mhd",
        "registration/itk_2d_pairs/RatLungSlice1.mha",
        "kspace/complex_images/itkBrainSliceComplexMagnitude.mha",
    ],
)
def test_real_slices(itk: Any, name: str) -> None:
    volume = read_metaimage(shared(name))
    check_as_itk(itk, shared(name), volume)
    assert (volume.space, volume.grid.shape[0]) == ("unknown", 1)


@pytest.mark.filterwarnings(NO_FRAME)
def test_a_complex_brain_has_the_magnitude_and_phase_of_its_other_files() -> None:
    stem = "kspace/complex_images/itkBrainSliceComplex"
    data = read_metaimage(shared(f"{stem}.mha"), channels="complex").data
    magnitude = read_metaimage(shared(f"{stem}Magnitude.mha")).data
    phase = read_metaimage(shared(f"{stem}Phase.mha")).data
    assert data.dtype == torch.complex64
    assert torch.allclose(data.abs(), magnitude)
    assert torch.allclose(data.angle(), phase, atol=1e-5)

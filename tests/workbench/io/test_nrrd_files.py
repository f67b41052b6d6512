"""Real NRRD files, and such as are cut short, too long or no NRRD at all."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workbench.io.test_nrrd import ARRAY, BARE, check_as_itk, itk, shared, written
from workbench.io.nrrd import read_nrrd

__all__ = ["itk"]
PAIRS = "registration/itk_2d_pairs/BrainProtonDensitySlice"


@pytest.mark.parametrize(("name", "kind"), [("brain1_image", torch.int16), ("brain1_label", torch.int32)])
def test_a_brain_and_its_lesion(itk: Any, name: str, kind: torch.dtype) -> None:
    path = shared(f"mr/pyradiomics_brain1/{name}.nrrd")
    volume = read_nrrd(path)
    check_as_itk(itk, path, volume)
    assert (volume.space, volume.grid.orientation, volume.data.dtype) == ("scanner", "SAL", kind)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ct/tooth_volume/tooth.nhdr", (161, 94, 103)),  # big-endian
        (f"{PAIRS}Border20.nhdr", (1, 257, 221)),
        (f"{PAIRS}Border20DirectionPlus30.nhdr", (1, 257, 221)),
        (f"{PAIRS}Shifted13x17yDirectionPlus30.nhdr", (1, 257, 221)),
    ],
)
def test_images_of_no_space(itk: Any, name: str, shape: tuple[int, ...]) -> None:
    path = shared(name)
    with pytest.warns(UserWarning, match=r"states no frame \(no space is stated\)"):
        volume = read_nrrd(path)
    check_as_itk(itk, path, volume)
    assert (volume.space, volume.grid.shape) == ("unknown", shape)


def test_a_head_in_93_files() -> None:
    path = shared("ct/vtk_headsq/quarter.nhdr")  # SimpleITK refuses a space with spacings alone
    with pytest.warns(UserWarning, match="the space 3d-left-handed is not the patient's"):
        volume = read_nrrd(path)
    for i in (1, 50, 93):
        values = np.fromfile(path.with_name(f"quarter.{i}"), "<i2").reshape(64, 64)
        assert np.array_equal(volume.data[i - 1].numpy(), values)
    assert volume.grid.spacing == pytest.approx((1.5, 3.2, 3.2))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "text"])
def test_too_few_and_too_many_numbers_are_refused(tmp_path: Path, encoding: str) -> None:
    def encoded(values: Any) -> bytes:
        text = " ".join(map(str, values)).encode()
        return {"raw": values.tobytes(), "gzip": gzip.compress(values.tobytes()), "text": text}[encoding]

    for values in (ARRAY.ravel()[:-1], np.append(ARRAY.ravel(), np.int16(0))):
        with pytest.raises(
            ValueError, match="must hold the (48 bytes|24 numbers) that the header states, got"
        ):
            read_nrrd(written(tmp_path / "a.nrrd", data=encoded(values), encoding=encoding))
    sizes = "999999999999 999999999999 999999999999"
    with pytest.raises(ValueError, match="that the header states"):  # and nothing of that size is asked for
        read_nrrd(written(tmp_path / "a.nrrd", data=encoded(ARRAY), encoding=encoding, sizes=sizes))


@pytest.mark.parametrize(
    ("kind", "word"), [("uchar", "300"), ("uchar", "1.5"), ("float", "1e99"), ("float", "one")]
)
def test_text_that_is_no_number_of_the_type_is_refused(tmp_path: Path, kind: str, word: str) -> None:
    data = " ".join([word] * 24).encode()
    with pytest.raises(ValueError, match="must hold numbers of the type (uint8|float32)"):
        read_nrrd(written(tmp_path / "a.nrrd", data=data, encoding="text", type=kind))


def test_text_may_have_commas_lines_and_what_is_skipped(tmp_path: Path) -> None:
    words = [b"%d" % value for value in ARRAY.ravel()]
    (tmp_path / "a.txt").write_bytes(b"a line\nx:" + b", ".join(words[:12]) + b"\n" + b"\n".join(words[12:]))
    skips = {"line_skip": "1", "byte_skip": "2"}
    path = written(tmp_path / "a.nhdr", encoding="text", data_file="a.txt", endian=None, **skips)
    assert np.array_equal(read_nrrd(path).data, ARRAY)
    with pytest.raises(ValueError, match="must be raw for a byte skip of -1, got .*text"):
        read_nrrd(written(tmp_path / "b.nhdr", encoding="text", data_file="a.txt", byte_skip="-1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5\n4 3\n", "must begin with NRRD0001 to NRRD0006, got .*'P5'"),
        (b"", "must begin with NRRD0001"),
        (b"NRRD0009\n\n", "must begin with NRRD0001 to NRRD0006, got .*'NRRD0009'"),
        (b"NRRD0004\ntype: int\n", "must have data after an empty line, got .*a header alone. Is it whole"),
        (b"NRRD0004\ntype: int\ntype: short\n\n", "each field once, got .*type twice"),
        (b"NRRD0004\nan odd line\n\n", "each field once, got .*another line"),
    ],
)
def test_headers_that_are_none_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_nrrd(tmp_path / "a.nrrd")


def test_what_is_no_path_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in .nrrd or .nhdr, got 'a.nii'"):
        read_nrrd("a.nii")
    with pytest.raises(TypeError, match="`path` must be a path, got 3"):
        read_nrrd(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_nrrd(tmp_path / "absent.nrrd")
    with pytest.raises(FileNotFoundError, match=r"`path` must name data files that exist, got .*absent\.raw"):
        read_nrrd(written(tmp_path / "a.nhdr", data_file="absent.raw"))


def test_spacings_that_are_not_stated_are_warned_about(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd", **BARE, spacings="2 nan nan", thicknesses="nan nan 5")
    with pytest.warns(UserWarning) as caught:
        assert read_nrrd(path).grid.spacing == (5.0, 1.0, 2.0)
    notes = " ".join(str(warning.message) for warning in caught)
    assert "states no spacing of axis 1: 1 mm is taken" in notes
    assert "states no spacing of axis 2: 5 mm is taken" in notes
    assert all(warning.filename == __file__ for warning in caught)


def test_values_come_in_another_type_where_it_holds_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd")
    for kind in (torch.float32, torch.uint8, torch.complex64):
        assert torch.equal(read_nrrd(path, dtype=kind).data, torch.from_numpy(ARRAY).to(kind))
    with pytest.raises(TypeError, match="`dtype` must be a torch.dtype, got 'float32'"):
        read_nrrd(path, dtype="float32")  # type: ignore[arg-type]
    wrong = [("short", -1, torch.uint8), ("ulonglong", 2**63 + 1, torch.int64), ("double", 0.5, torch.int32)]
    for name, value, asked in [*wrong, ("int", 70000, torch.float16)]:
        data = " ".join([str(value)] * 24).encode()
        path = written(tmp_path / "b.nrrd", data=data, encoding="text", type=name)
        with pytest.raises(
            TypeError, match=rf"`dtype` must hold the file's values, of .*, got {asked}. Read it"
        ):
            read_nrrd(path, dtype=asked)
    path = written(tmp_path / "c.nrrd", data=b"nan inf -inf " * 8, encoding="text", type="double")
    assert read_nrrd(path, dtype=torch.float16).data.isnan().sum() == 8

"""Tensors come back to the bit; whatever is no whole safetensors file is named, and no pickle is ever run."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from operators.errors import NonFiniteError
from workbench.io.tensor_file import DTYPES, HEADER_LIMIT, open_tensors, sha256_of, write_tensors

pytest.importorskip("safetensors", reason="weights need the [io] extra")


def tensors() -> dict[str, Tensor]:
    ramp = torch.arange(24, dtype=torch.float32)
    return {
        "layer.weight": ramp.reshape(2, 3, 4) / 7,
        "layer.steps": torch.tensor(7),
        "half": ramp.to(torch.float16),
        "brain": ramp.to(torch.bfloat16),
        "double": ramp.double() / 3,
        "mask": ramp > 3,
        "nothing": torch.zeros(0, 2),
    }


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file by its definition."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_tensors_and_metadata_come_back_to_the_bit(tmp_path: Path) -> None:
    written = tensors()
    path = write_tensors(tmp_path / "a.safetensors", written, {"card": "{}", "é": "\n"})
    file = open_tensors(str(path))
    back = file.tensors()
    assert list(back) == sorted(written)
    for name, tensor in written.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)
        assert file.shapes[name] == tuple(tensor.shape)
        assert DTYPES[file.dtypes[name]] == tensor.dtype
    assert {"card": "{}", "é": "\n"}.items() <= file.metadata.items()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_file_is_the_one_that_its_definition_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = struct.pack("<2f", 1.5, -2.0)
    path.write_bytes(raw({"__metadata__": {"x": "y"}, "w": entry([2], 0, 8)}, values))
    file = open_tensors(path)
    assert file.metadata == {"x": "y"}
    assert file.tensors()["w"].tolist() == [1.5, -2.0]


def test_views_are_written_as_what_they_show_and_shared_weights_under_both_names(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    written = {
        "t": base.T,
        "column": base[:, 1],
        "same": base,
        "again": base,
        "spread": torch.ones(1).expand(4),
    }
    path = write_tensors(tmp_path / "a.safetensors", written, {})
    back = open_tensors(path).tensors()
    assert all(torch.equal(back[name], tensor) for name, tensor in written.items())
    assert path.stat().st_size < 1024 + 4 * (12 + 3 + 12 + 12 + 4)


def test_a_new_file_may_be_read_by_whom_any_other_may(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    path = write_tensors(tmp_path / "a.safetensors", tensors(), {})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_a_file_is_replaced_only_when_asked_and_kept_when_writing_fails(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="must be new.*overwrite=True"):
        write_tensors(path, {"a": torch.zeros(2)}, {})
    with pytest.raises(NonFiniteError, match="`a` must hold finite weights, got 1 NaN or infinite of 2"):
        write_tensors(path, {"a": torch.tensor([1.0, torch.nan])}, {}, overwrite=True)
    assert path.read_bytes() == before
    write_tensors(path, {"a": torch.zeros(2)}, {}, overwrite=True)
    assert open_tensors(path).tensors()["a"].tolist() == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(2, device="meta"), torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex64), [1.0]],
    ids=["meta", "sparse", "complex", "list"],
)
def test_what_is_no_dense_tensor_of_weights_is_refused(tmp_path: Path, tensor: object) -> None:
    with pytest.raises(TypeError, match="`layer.w` must"):
        write_tensors(tmp_path / "a.safetensors", {"layer.w": tensor}, {})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_the_hash_depends_on_names_dtypes_shapes_and_bytes_and_not_on_order() -> None:
    first = tensors()
    assert sha256_of(dict(reversed(first.items()))) == sha256_of(first)
    strided = torch.arange(48.0).reshape(2, 3, 8)[..., ::2] / 2 / 7
    assert sha256_of({**first, "layer.weight": strided.contiguous()}) == sha256_of(
        {**first, "layer.weight": strided}
    )
    changed = [
        {**first, "half": first["half"].to(torch.bfloat16)},
        {**first, "half": first["half"].reshape(4, 6)},
        {**first, "nothing": torch.zeros(2, 0)},
        {("other" if name == "half" else name): tensor for name, tensor in first.items()},
        {**first, "double": torch.nextafter(first["double"], torch.tensor(99.0, dtype=torch.float64))},
    ]
    assert len({sha256_of(each) for each in (first, *changed)}) == 1 + len(changed)


def test_the_hash_is_the_documented_one() -> None:
    import hashlib

    parts = [b"a", b"F32", b"2", struct.pack("<2f", 1, 2), b"b", b"I64", b"", struct.pack("<q", 5)]
    stream = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert (
        sha256_of({"b": torch.tensor(5), "a": torch.tensor([1.0, 2.0])}) == hashlib.sha256(stream).hexdigest()
    )


@pytest.mark.parametrize("name", ["a", "a.safetensor", "a.npz", "a.h5"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must end in .safetensors"):
        open_tensors(tmp_path / name)
    with pytest.raises(ValueError, match="must end in .safetensors"):
        write_tensors(tmp_path / name, {}, {})


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_tensors(tmp_path / "a.safetensors")
    folder = tmp_path / "b.safetensors"
    folder.mkdir()
    assert "be a file" in refusal(folder)
    pipe = tmp_path / "c.safetensors"
    os.mkfifo(pipe)
    assert "be a file" in refusal(pipe)


class Malicious:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def pickles(mark: Path) -> dict[str, bytes]:
    import io

    modern, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"w": Malicious(mark)}, modern)
    torch.save({"w": Malicious(mark)}, legacy, _use_new_zipfile_serialization=False)
    plain = {
        f"protocol {k}": pickle.dumps(Malicious(mark), protocol=k) for k in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    return {"zip": modern.getvalue(), "legacy": legacy.getvalue(), **plain}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".bin", ".PT", ".safetensors"])
def test_no_pickle_is_ever_run(tmp_path: Path, suffix: str) -> None:
    mark = tmp_path / "was here"
    kinds = pickles(mark)
    pickle.loads(kinds["protocol 4"])
    assert mark.is_dir()  # the pickles work
    mark.rmdir()
    for content in kinds.values():
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        said = refusal(path)
        if suffix != ".safetensors":
            assert "pickle" in said and "save_file" in said
        assert not mark.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 2", "protocol 5"])
def test_a_pickle_under_another_name_is_called_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickles(tmp_path / "mark")[kind])
    said = refusal(path)
    assert "a pickle" in said and "save_file" in said


HEADERS = {
    "empty": b"",
    "short": b"1234567",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "absurd length": raw({}, length=2**63),
    "length beyond the limit": raw(b"{" + b" " * HEADER_LIMIT + b"}"),
    "length beyond the file": raw({}, length=100),
    "no JSON": raw(b"{nonsense"),
    "deep": raw(b'{"a":' * 10_000),
    "no utf-8": raw(b'{"\xff": 1}'),
    "truncated data": raw({"w": entry([2], 0, 8)}, bytes(7)),
    "more data": raw({"w": entry([2], 0, 8)}, bytes(9)),
    "offsets beyond": raw({"w": entry([2], 4, 12)}, bytes(8)),
    "offsets overlap": raw({"v": entry([2], 0, 8), "w": entry([2], 4, 12)}, bytes(12)),
    "offsets that do not fit the shape": raw({"w": entry([3], 0, 8)}, bytes(8)),
    "negative shape": raw({"w": entry([-2], 0, 8)}, bytes(8)),
    "overflowing shape": raw({"w": entry([2**62, 2**62], 0, 8)}, bytes(8)),
    "huge shape": raw({"w": entry([2**40], 0, 2**42)}, bytes(8)),
    "unknown dtype": raw({"w": entry([2], 0, 8, "F31")}, bytes(8)),
    "packed dtype": raw({"w": entry([2], 0, 2, "F8_E4M3")}, bytes(2)),
    "metadata that is no text": raw({"__metadata__": {"card": 3}}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[kind])
    assert refusal(path).startswith("`path` must ")


def test_a_damaged_header_costs_no_memory(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "a.safetensors"
    for length in (2**62, HEADER_LIMIT, 2**34):
        path.write_bytes(raw({"w": entry([2**40], 0, 2**42)}, bytes(8), length=length))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refusal(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_tensors(tmp_path / "a.safetensors", tensors(), {"card": "x" * 500})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    assert "whole safetensors file" in refusal(path)

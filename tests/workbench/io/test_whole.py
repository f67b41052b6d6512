"""What a write leaves behind when it fails, and what a killed one left before."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.io.whole import folder_written_whole, written_whole


def gone() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(path: Path, text: str = "new") -> None:
    with written_whole(path) as partial:
        partial.write_text(text)


def make(path: Path) -> None:
    with folder_written_whole(path) as partial:
        (partial / "inside").write_text("new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [written_whole, folder_written_whole])
def test_a_full_disk_names_the_target_alone(tmp_path: Path, act: type[written_whole]) -> None:
    with pytest.raises(OSError) as caught, act(tmp_path / "a.nc"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path}/a.nc'"
    assert caught.value.filename2 is None
    assert names(tmp_path) == []


@pytest.mark.parametrize("act", [written_whole, folder_written_whole])
def test_a_move_that_fails_names_the_target_alone(
    tmp_path: Path, act: type[written_whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    with pytest.raises(PermissionError) as caught, act(tmp_path / "a") as partial:
        if not partial.exists():
            partial.touch()
        monkeypatch.setattr("os.replace", refuses)
    assert str(caught.value) == f"[Errno 1] Operation not permitted: '{tmp_path}/a'"
    assert names(tmp_path) == []


def test_other_files_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'.*/source'$"), written_whole(tmp_path / "a"):
        (tmp_path / "source").read_bytes()


# -- leftovers -----------------------------------------------------------------------------------------


def test_what_a_killed_process_left_of_the_same_target_goes(tmp_path: Path) -> None:
    dead = gone()
    (tmp_path / f".partial-{dead}-a.nc").write_text("half")
    (tmp_path / f".partial-{dead}-A.zarr").mkdir()
    (tmp_path / f".partial-{dead}-A.zarr" / "inside").write_text("half")
    write(tmp_path / "A.nc")
    assert names(tmp_path) == [f".partial-{dead}-A.zarr", "A.nc"]
    make(tmp_path / "A.zarr")
    assert names(tmp_path) == ["A.nc", "A.zarr"]
    assert (tmp_path / "A.zarr" / "inside").read_text() == "new"


def test_all_else_stays(tmp_path: Path) -> None:
    dead, alive = gone(), os.getppid()
    kept = [
        f".partial-{alive}-a.nc",
        ".partial-1-a.nc",  # of another user: it may not be asked
        f".partial-{dead}-b.nc",
        f".partial-{dead}-a.nc.bak",
        f".partial-{dead}-a_nc",
        f".partial-0{dead}-a.nc",
        f".partial--{dead}-a.nc",
        f".partial-{dead}x-a.nc",
        f".partial-{10**30}-a.nc",
        f"x.partial-{dead}-a.nc",
        f".partial-{dead}-",
        f"partial-{dead}-a.nc",
    ]
    for name in kept:
        (tmp_path / name).write_text("kept")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / f".partial-{dead}-a.nc").write_text("kept")
    write(tmp_path / "a.nc")
    make(tmp_path / "a")
    assert names(tmp_path) == sorted([*kept, "a.nc", "a", "below"])
    assert names(tmp_path / "below") == [f".partial-{dead}-a.nc"]


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inside").touch()
    (tmp_path / f".partial-{gone()}-a").symlink_to(tmp_path / "data")
    make(tmp_path / "a")
    assert names(tmp_path) == ["a", "data"]
    assert names(tmp_path / "data") == ["inside"]


def test_leftovers_of_its_own_number_are_overwritten(tmp_path: Path) -> None:
    """Numbers of processes come again."""
    (tmp_path / f".partial-{os.getpid()}-a").mkdir()
    (tmp_path / f".partial-{os.getpid()}-a" / "old").touch()
    make(tmp_path / "a")
    assert names(tmp_path / "a") == ["inside"]


def test_a_killed_process_is_cleaned_up_after(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from workbench.io.whole import folder_written_whole\n"
        "with folder_written_whole(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environment, check=False)
    assert [name.startswith(".partial-") for name in names(tmp_path)] == [True]
    make(tmp_path / "a")
    assert names(tmp_path) == ["a"]

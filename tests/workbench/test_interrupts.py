"""A Ctrl-C waits for the end of what it must not break, and then arrives as itself."""

import signal
import threading

import pytest
import torch

from tests.workbench.toys import walk
from workbench.interrupts import interrupts_wait
from workbench.io.zarr_store import ZarrStore


def test_it_waits_and_arrives() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        reached.append("end")
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_leaves_the_handler_alone() -> None:
    seen = []

    def work() -> None:
        with interrupts_wait():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_checkpoint_that_is_interrupted_is_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = walk().tensor()
    save, calls = torch.save, []

    def interrupted(content: object, file: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        save(content, file)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        walk(ZarrStore(tmp_path / "run"), checkpoint_seconds=0)
    monkeypatch.setattr(torch, "save", save)
    assert torch.equal(walk(ZarrStore(tmp_path / "run")).tensor(), whole)

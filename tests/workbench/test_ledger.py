"""Seconds go on over sessions, peaks begin anew, budgets are enforced where they are looked at."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from workbench import ledger as ledgers
from workbench.ledger import Budget, BudgetExhausted, Ledger, peak_memory, reset_peak_memory

CPU = torch.device("cpu")
MEGABYTE = 2**20


def in_use() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def touch(megabytes: int) -> None:
    """Fill and free that much memory."""
    torch.ones(megabytes * MEGABYTE, dtype=torch.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process")
def test_a_reset_peak_forgets_what_was_freed() -> None:
    touch(400)
    assert peak_memory(CPU) > in_use() + 300 * MEGABYTE
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < in_use() + 100 * MEGABYTE
    touch(400)
    assert peak_memory(CPU) > in_use() + 300 * MEGABYTE
    reset_peak_memory(CPU)


def test_without_proc_the_peak_is_that_of_the_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __init__(self, path: str) -> None:
            raise FileNotFoundError(path)

    monkeypatch.setattr(ledgers, "Path", Nowhere)
    reset_peak_memory(CPU)  # cannot, and does not mind
    assert peak_memory(CPU) > 50 * MEGABYTE


@pytest.mark.cuda
def test_a_reset_peak_forgets_what_was_freed_on_a_gpu() -> None:
    device = torch.device("cuda")
    torch.ones(100 * MEGABYTE, dtype=torch.uint8, device=device)
    assert peak_memory(device) >= 100 * MEGABYTE
    reset_peak_memory(device)
    assert peak_memory(device) == torch.cuda.memory_allocated(device)


def test_seconds_go_on_over_sessions() -> None:
    first = Ledger(seconds=100.0, forwards=3)
    second = Ledger()
    second.start_clock()
    second.restore(first.facts())
    second.start_clock()
    time.sleep(0.02)
    second.look(CPU)
    assert 100.02 <= second.seconds < 130
    assert second.forwards == 3
    once = second.seconds
    time.sleep(0.02)
    second.look(CPU)
    assert second.seconds >= once + 0.02


def test_a_clock_that_does_not_run_leaves_the_seconds() -> None:
    ledger = Ledger(seconds=7.0)
    ledger.look(CPU)
    assert ledger.seconds == 7.0


def test_look_enforces_memory() -> None:
    ledger = Ledger()
    ledger.enforce(Budget(memory_bytes=1000))
    with pytest.raises(
        BudgetExhausted, match=r"budget of 1000 memory_bytes is exhausted: \d+ were in use. Raise it"
    ):
        ledger.look(CPU)
    assert ledger.peak_memory_bytes > 1000
    ledger.enforce(Budget(memory_bytes=2**50))
    ledger.look(CPU)


def test_a_peak_of_an_earlier_look_is_kept() -> None:
    ledger = Ledger(peak_memory_bytes=2**50)
    ledger.look(CPU)
    assert ledger.peak_memory_bytes == 2**50


@pytest.mark.parametrize(
    ("limit", "passed", "message"),
    [
        (1 / 3, 12.3456, "budget of 0.333 seconds is exhausted: 12\\.\\d have passed"),
        (60, 4321.4, "budget of 60 seconds is exhausted: 43\\d\\d have passed"),
        (0.00123456, 0.0456789, r"budget of 0.00123 seconds is exhausted: 0\.\d+ have passed"),
    ],
)
def test_look_enforces_seconds(limit: float, passed: float, message: str) -> None:
    ledger = Ledger(seconds=passed)
    ledger.enforce(Budget(seconds=limit))
    ledger.start_clock()
    with pytest.raises(BudgetExhausted, match=message):
        ledger.look(CPU)


def test_a_look_that_does_not_enforce_only_looks() -> None:
    ledger = Ledger(seconds=100.0)
    ledger.enforce(Budget(seconds=1.0, memory_bytes=1))
    ledger.start_clock()
    ledger.look(CPU, enforce=False)
    assert ledger.seconds > 100
    assert ledger.peak_memory_bytes > 1
    with pytest.raises(BudgetExhausted, match="seconds"):
        ledger.look(CPU)

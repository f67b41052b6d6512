"""Questions `workbench doctor` asks in a child process, where a crashing native library does no harm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

TIMEOUT = 120.0
_MARK = "workbench-probe:"

# from_numpy fails where torch was built against another major version of NumPy, though both import.
TORCH = """
import json, torch, numpy
torch.from_numpy(numpy.zeros(1))
devices = []
cuda = torch.cuda.is_available()
for index in range(torch.cuda.device_count() if cuda else 0):
    free, total = torch.cuda.mem_get_info(index)
    name = torch.cuda.get_device_name(index)
    devices.append({"name": name, "total_bytes": total, "free_bytes": free})
build = "cuda " + torch.version.cuda if torch.version.cuda else "rocm" if torch.version.hip else "cpu"
found = {"version": str(torch.__version__), "build": build, "threads": torch.get_num_threads()}
found |= {"cuda_available": cuda, "devices": devices}
"""

# Nothing but use_cuda(): ASTRA's 3D functions kill the interpreter where no driver is found.
ASTRA = """
import json, astra
found = {"version": str(astra.__version__), "cuda": bool(astra.use_cuda())}
"""


def probe(module: str, code: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Run `code` in a child process and return its `found`, with a status.

    The status is "ok", "missing" (the module is not installed) or "broken"; `detail` says why it is broken.
    """
    report = f"\nprint({_MARK!r} + json.dumps(found))"
    # -P: a folder called astra in the working directory is data, not the package.
    command = [sys.executable, "-P", "-c", code + report]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"status": "broken", "detail": f"importing it took longer than {timeout:.0f} s"}
    if done.returncode == 0:
        answer = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
        if answer is None:
            return {"status": "broken", "detail": "the import ended the interpreter without an error"}
        return {"status": "ok", "detail": None, **json.loads(answer.removeprefix(_MARK))}
    if done.returncode < 0:
        detail = f"importing it crashed the interpreter ({_signal(done.returncode)})"
        return {"status": "broken", "detail": detail}
    last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    if last == f"ModuleNotFoundError: No module named '{module}'":
        return {"status": "missing", "detail": None}
    return {"status": "broken", "detail": last}


def _signal(returncode: int) -> str:
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"

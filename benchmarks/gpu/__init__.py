"""What a GPU does here, and how fast: `python -m benchmarks gpu` (`make gpu-check`), within 8 minutes.

It needs Python 3.11 to 3.13, torch ≥ 2.11, numpy, pydantic, pyyaml, safetensors and pyarrow, and what Triton, torch's
compiler, asks of the host: gcc or clang, and Python's headers. Without transformers the peer is left out. Each finding
is printed and written to the JSON file at once; a run that is cut short says so there. Speeds have floors on an H100 or
H200 alone.
`--device cpu --small` tries the same code on a CPU; its speeds mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sysconfig
import traceback
from pathlib import Path
from types import FrameType


def main(words: list[str]) -> int:
    """Check; 1 if anything failed or missed its bound, 128 and a signal's number if that ended it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--seconds", type=int, default=480, help="stop then")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args(words)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --small tries the code without one")
    if options.device == "cuda" and (lacking := _lacking()):
        parser.error(f"Triton, torch's compiler, builds what starts its kernels with a C compiler: {lacking}")
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}; make it, or name another file")
    from benchmarks.gpu import fast, right
    from benchmarks.gpu.findings import Findings

    found = Findings(options.device, options.small, options.seconds, options.out)
    for signum in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _cut_short)
    signal.alarm(options.seconds)
    try:
        for part in (*right.PARTS, *fast.PARTS):
            try:
                part(found)
            except Exception as error:  # noqa: BLE001 (a part that fails is a finding)
                traceback.print_exc()
                found.note(
                    part.__name__, "failed", bound=None, met=False, note=f"{type(error).__name__}: {error}"[:500]
                )
            found.free()
    except (CutShort, SystemExit) as end:  # a training that gets SIGTERM saves a checkpoint and exits by itself
        signum = end.signum if isinstance(end, CutShort) else signal.SIGTERM
        if signum != signal.SIGALRM:
            found.note("cut short", signum.name, note="what comes later was not looked at")
            return 128 + signum
        found.note("time", "up", note=f"after {options.seconds} s; what comes later was not looked at")
    finally:
        signal.alarm(0)
    return int(any(row["met"] is False for row in found.rows))


class CutShort(BaseException):
    """A signal came. No part may take it for a fault of its own."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum.name)
        self.signum = signum


def _cut_short(signum: int, frame: FrameType | None) -> None:
    raise CutShort(signal.Signals(signum))


def _lacking() -> str | None:
    """What Triton needs of the host and does not find, and what to do; None: nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is none here; install gcc, or name one in CC"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else f"{header} is missing; install Python's headers (python3-dev)"

"""What a GPU does here, and how fast: `python -m benchmarks gpu` (`make gpu-check`), within 8 minutes.

It needs Python 3.11 to 3.13, torch ≥ 2.11, numpy, pydantic, pyyaml, safetensors and pyarrow, and no compiler but what
torch brings or asks for; without transformers the peer is left out. Each finding is printed and written to the JSON
file at once, so a run that is cut short leaves what it found. Speeds have floors on an H100 or H200 alone.
`--device cpu --small` tries the same code on a CPU; its speeds mean nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import traceback
from pathlib import Path
from types import FrameType


def main(words: list[str]) -> int:
    """Check; 1 if anything failed or missed its bound."""
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
    from benchmarks.gpu import fast, right
    from benchmarks.gpu.findings import Findings

    found = Findings(options.device, options.small, options.seconds, options.out)
    signal.signal(signal.SIGALRM, _time_is_up)
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
    except TimeIsUp:
        found.note("time", "up", note=f"after {options.seconds} s; what comes later was not looked at")
    finally:
        signal.alarm(0)
    return int(any(row["met"] is False for row in found.rows))


class TimeIsUp(BaseException):
    """No part may take it for a fault of its own."""


def _time_is_up(signum: int, frame: FrameType | None) -> None:
    raise TimeIsUp

"""What a run must bring back if it does not end well: DVC removes a stage's outputs before it starts the stage."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.graph import Graph
from flows.outcome import Outcome
from k2core.tracking.lock import read_lock


@dataclass(frozen=True)
class Kept:
    """The figures before the run. DVC has all other outputs in its cache, but metrics files are not cached."""

    root: Path
    figures: dict[Path, bytes]

    @classmethod
    def read(cls, root: Path) -> Kept:
        """Those of the workspace at `root`, as they are now."""
        return cls(root, {path: path.read_bytes() for path in (root / "metrics").glob("*.json")})

    def bring_back(self, graph: Graph, outcomes: dict[str, Outcome]) -> None:
        """Restore the missing outputs of stages that did not end well, and say what came back."""
        lost = [stage for stage, outcome in outcomes.items() if outcome.state in ("failed", "cancelled", "running")]
        locked = read_lock(self.root)
        gone = [
            path for stage in lost if stage in locked for path in graph.outputs.get(stage, ())
            if path in locked[stage].outs and not (self.root / path).exists()
        ]  # fmt: skip
        if not gone:
            return
        for path in gone:
            if self.root / path in self.figures:
                (self.root / path).write_bytes(self.figures[self.root / path])
        cached = [path for path in gone if not (self.root / path).exists()]
        said = ""
        if cached:  # without a path DVC would check out everything
            words = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", *cached]
            done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, check=False)
            said = " ".join(done.stderr.split())
        back = [path for path in gone if (self.root / path).exists()]
        if back:
            print(f"brought back as they were before this run: {', '.join(back)}")
        if len(back) < len(gone):
            print(f"could not bring back {', '.join(sorted(set(gone) - set(back)))}: {said}")

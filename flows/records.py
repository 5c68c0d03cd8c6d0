"""The file with MLflow's records, watched while `make ui` shows them.

An MLflow server goes on showing a file that was removed, until it ends. Nothing can be written to it any more.
"""

from __future__ import annotations

from pathlib import Path

from k2core.tracking.uri import tracking_uri

SQLITE = "sqlite:///"


class Records:
    """The sqlite file of a workspace's records; none if they are on a server."""

    def __init__(self, root: Path) -> None:
        uri = tracking_uri(root)
        self._path = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
        self._known = self._which()

    def lost(self) -> str:
        """A sentence, once, if the file has been removed or replaced since this was asked before; else empty."""
        before, self._known = self._known, self._which()
        if before is None or before == self._known:  # a new file in place of none is MLflow's own
            return ""
        assert self._path is not None
        return (
            f"{self._path.name} was {'replaced' if self._known else 'removed'}: the MLflow page shows a new one from "
            "now on, without what was in the old one; a run under way says at its end how its records get there"
        )

    def _which(self) -> tuple[int, int] | None:
        """What tells the file from any other; None where it is not there."""
        try:
            about = self._path.stat() if self._path else None
        except FileNotFoundError:
            return None
        return (about.st_dev, about.st_ino) if about else None

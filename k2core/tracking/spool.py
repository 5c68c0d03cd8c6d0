"""Messages on their way to MLflow, in order; on disk while MLflow does not take them."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from k2core.storage.foreign import printable

Message = tuple[str, dict[str, Any]]
"""Connection number, and what came over it."""
LOST = "LOST"
"""The status of a stage whose end nobody saw: its recorder was killed."""


class Spool:
    """A queue that survives its process once it has been `saved`.

    The file begins with the state that the messages below it build on, so that another process can go on from there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, False
        self.messages: deque[Message] = deque()

    def add(self, message: Message) -> None:
        """Append `message`."""
        self.messages.append(message)
        if self.saved:
            self.saved = _written(self.path, "a", [message])

    def play(self, play: Callable[[Message], None]) -> None:
        """Hand over message after message, each leaving the queue once `play` has returned."""
        while self.messages:
            play(self.messages[0])
            self.messages.popleft()
        self.path.unlink(missing_ok=True)
        self.saved = False

    def save(self, state: dict[str, Any] | None) -> None:
        """Write what is left to the file, after the `state` that it builds on (None: MLflow has nothing yet)."""
        lines = [*([("", {"type": "resume", "state": state})] if state else []), *self.messages]
        temporary = self.path.with_suffix(".tmp")
        self.saved = _written(temporary, "w", lines)
        if self.saved:
            temporary.replace(self.path)

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on with the messages of a process that is gone: it left the file, or no more than its `state`.

        Stages that it saw begin and not end are ended as `LOST`.
        """
        if self.path.exists():
            self.messages.extend((number, message) for number, message in map(json.loads, _whole_lines(self.path)))
        elif state:
            self.messages.append(("", {"type": "resume", "state": state}))
        under_way: dict[str, None] = {}
        for number, message in self.messages:
            if message["type"] == "resume":
                under_way |= dict.fromkeys(message["state"]["open"])
            elif message["type"] == "start":
                under_way[number] = None
            elif message["type"] == "end":
                under_way.pop(number, None)
        error = "its recorder was killed; the stage itself was not touched"
        now = int(time.time() * 1000)
        self.messages.extend(
            (number, {"type": "end", "status": LOST, "error": error, "time": now}) for number in under_way
        )


def say(text: str) -> None:
    """Write a line to `logs/tracking.log`. Its disk may be the full one: a recorder does not die of that."""
    with contextlib.suppress(OSError):
        print(printable(text), flush=True)


def _written(path: Path, mode: str, lines: Iterable[Message]) -> bool:
    """False on a full disk, which may be why MLflow takes nothing: then the queue stays only in memory."""
    try:
        with path.open(mode) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        say(f"{path}: cannot be written ({error})")
        return False
    return True


def _whole_lines(path: Path) -> list[str]:
    """Without a last line that was cut short by a kill."""
    return path.read_text().split("\n")[:-1]

"""An MCP server as a child process: what it writes is bounded, and whatever it started ends with it.

The `mcp` library's own transport keeps a line of any length, hands the standard error to a file that nobody bounds, and
leaves alone what has left the server's session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.machine.descendants import no_survivors
from k2core.storage.foreign import one_line

if TYPE_CHECKING:
    from anyio.abc import Process

LONGEST_LINE = 16 * 2**20
"""Bytes of a message, a line of its output, at most."""
KEPT = 2**16
"""Bytes of its standard error that are remembered: the last ones."""
ERRORS_PER_SECOND = 20e6
"""Bytes of its standard error that are read in a second; a server that writes more waits."""
PATIENCE = 2.0
"""Seconds that it is given to end by itself, and then on SIGTERM."""
LAST_WORDS = 0.5
"""Seconds for what an ending server still has to say."""


@dataclass
class Child:
    """One server.

    Args:
        environment: all the variables that it gets.
        folder: in which it runs.
    """

    command: list[str]
    environment: Mapping[str, str]
    folder: Path
    fault: str = ""
    said: bytearray = field(default_factory=bytearray)

    def last_words(self) -> str:
        """What it did wrong, or the last line that it wrote to its standard error, in brackets."""
        lines = [line for line in self.said.decode("utf-8", "replace").splitlines() if line.strip()]
        if self.fault or not lines:
            return f" [{self.fault}]" if self.fault else ""
        return f" [its last line: {one_line(lines[-1])}]"

    def transport(self) -> AbstractAsyncContextManager[Any]:
        """The streams of an `mcp.Client`. The process starts and ends with the block.

        Raises:
            OSError: it cannot be started.
        """
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Any]:
        import anyio

        incoming, read = anyio.create_memory_object_stream[Any](0)
        write, outgoing = anyio.create_memory_object_stream[Any](0)
        silent = anyio.Event()
        with no_survivors():
            process = await anyio.open_process(
                self.command, env=dict(self.environment), cwd=self.folder, start_new_session=True
            )
            async with anyio.create_task_group() as tasks, incoming, read, write, outgoing:
                tasks.start_soon(self._remember, process, silent)
                tasks.start_soon(self._receive, process, incoming, silent)
                tasks.start_soon(self._send, process, outgoing, incoming, silent)
                try:
                    yield read, write
                finally:
                    with anyio.CancelScope(shield=True):
                        await read.aclose()  # what is still said is passed over: a server that waits for it cannot end
                        await _end(process)
                        with anyio.move_on_after(LAST_WORDS):
                            await silent.wait()
                    tasks.cancel_scope.cancel()

    async def _remember(self, process: Process, silent: Any) -> None:
        """Read its standard error to the end."""
        import anyio

        assert process.stderr
        async for chunk in process.stderr:
            self.said += chunk
            del self.said[:-KEPT]
            await anyio.sleep(len(chunk) / ERRORS_PER_SECOND)
        silent.set()

    async def _receive(self, process: Process, incoming: Any, silent: Any) -> None:
        """Pass on its messages, then tell the session that there are no more."""
        import anyio

        try:
            async for line in self._lines(process):
                await incoming.send(_message(line))
            with anyio.move_on_after(LAST_WORDS):
                await silent.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the session is over
        await incoming.aclose()
        assert process.stdout
        async for _ in process.stdout:
            pass

    async def _lines(self, process: Process) -> AsyncIterator[bytes]:
        """Its lines, up to one that is too long."""
        assert process.stdout
        parts: list[bytes] = []
        async for chunk in process.stdout:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                yield b"".join([*parts, end])
                parts = []
            parts.append(rest)
            if sum(map(len, parts)) > LONGEST_LINE:
                self.fault = f"it wrote a line of more than {LONGEST_LINE:,} bytes"
                return

    async def _send(self, process: Process, outgoing: Any, incoming: Any, silent: Any) -> None:
        """Pass on the session's messages; if the server takes no more, the session ends."""
        import anyio

        assert process.stdin
        try:
            async for message in outgoing:
                await process.stdin.send(
                    message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                )
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            with anyio.move_on_after(LAST_WORDS):
                await silent.wait()
            await incoming.aclose()


def _message(line: bytes) -> Any:
    """The message, or why a line is none."""
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _end(process: Process) -> None:
    """Have the server end: it reads the end of its input, is asked to end, is killed."""
    import anyio

    assert process.stdin
    await process.stdin.aclose()
    for force in (process.terminate, process.kill, None):
        with anyio.move_on_after(PATIENCE):
            while process.returncode is None:
                await anyio.sleep(0.01)
        if process.returncode is not None or force is None:
            return
        force()

"""Any MCP server, by command or by address: its tools as specs, and calls that are really executed.

A server is somebody else's program. Whatever it does (hang, end, answer with megabytes or without JSON) becomes a
sentence within `timeout_s`, and no answer is longer than `MAX_RESULT`. One by command is a `Child`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from k2core.agentic.tools.address import connected
from k2core.agentic.tools.child import Child
from k2core.agentic.tools.declarations import Refused, declared_tool
from k2core.agentic.tools.specs import ToolSpec
from k2core.recipe import Section, validate
from k2core.stage import StageError
from k2core.storage.disk import of_the_machine
from k2core.storage.foreign import characters, one_line

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from mcp import Client

MAX_RESULT = 4000
"""Characters of a result that go into a dialogue."""
MAX_PAGES = 100
"""Most pages of a list of tools, for a server that always names another one."""
ADDRESS = r"^(|https?://\S+)$"


class ServerSpec(Section):
    """An MCP server: a command, or an address."""

    command: list[str] = Field(
        [], description="program and arguments of a server that speaks over its input and output"
    )
    url: str = Field("", pattern=ADDRESS, description="address of a server that speaks streamable HTTP")
    sse: str = Field("", pattern=ADDRESS, description="address of a server that speaks the older HTTP with SSE")
    environment: list[str] = Field(
        [],
        description="environment variables that the command is given: NAME takes the value of this run, or NAME=VALUE",
    )
    api_key_variable: str = Field(
        "", description="url and sse: environment variable with the server's key, a bearer token; empty: it wants none"
    )
    category: str = Field(min_length=1, description="category of its tools")
    timeout_s: float = Field(120.0, gt=0, description="seconds that it may take to start, and to answer a call")

    @model_validator(mode="after")
    def _one_way(self) -> ServerSpec:
        if sum(map(bool, (self.command, self.url, self.sse))) != 1:
            raise ValueError("give one of command, url and sse")
        if self.command and self.api_key_variable:
            raise ValueError("a command takes no api_key_variable; name the variable in environment")
        return self

    @property
    def place(self) -> str:
        """What a person types or opens to reach it."""
        return " ".join(self.command) or self.url or self.sse


class ServerFault(Exception):
    """A call that got no usable answer; the sentence says why."""


@dataclass
class McpServer:
    """A running server.

    Attributes:
        broken: it left a call without an answer, so that a new one should take its place.
    """

    name: str
    spec: ServerSpec
    portal: BlockingPortal
    client: Client
    child: Child | None
    broken: bool = False

    def tools(self) -> tuple[list[ToolSpec], list[Refused]]:
        """Its tools in the server's order, and those that cannot be declared to a model.

        Raises:
            StageError: it does not list them.
        """
        kept: list[ToolSpec] = []
        refused: list[Refused] = []
        try:
            for tool in self._listed():
                row = {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
                try:
                    kept.append(declared_tool(row, self.name, self.spec.category, f"mcp:{self.name}"))
                except ValueError as error:
                    refused.append(Refused(f"mcp:{self.name}", str(error), row))
        except ServerFault as fault:
            raise StageError(f"tools.servers.{self.name}: {fault}; try `{self.spec.place}` by hand") from None
        return kept, refused

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Really call a tool. If the server reports a failure, its text is the result.

        Raises:
            ServerFault: no answer, or none that can be read.
        """
        result = self._ask(partial(self.client.call_tool, name, dict(arguments)), f"the call of {name}")
        texts = [part.text if part.type == "text" else f"[{part.type}]" for part in result.content]
        if not texts and result.structured_content is not None:
            texts = [json.dumps(result.structured_content, ensure_ascii=False)]
        return bounded("\n".join(texts))

    def _listed(self) -> Iterator[Any]:
        cursor = None
        for _ in range(MAX_PAGES):
            page = self._ask(partial(self.client.list_tools, cursor=cursor), "the list of its tools")
            yield from page.tools
            cursor = page.next_cursor
            if not cursor:
                return

    def _ask(self, request: Callable[[], Awaitable[Any]], what: str) -> Any:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        def fault(reason: str) -> ServerFault:
            words = self.child.last_words() if self.child else ""
            return ServerFault(f"the MCP server {self.name} failed at {what}: {reason}{words}")

        try:
            return self.portal.call(request)
        except MCPError as error:
            self.broken = error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT)
            raise fault(one_line(str(error))) from error
        except Exception as error:  # whatever else a stranger's bytes make the client raise
            self.broken = True
            raise fault(f"an answer that cannot be read ({type(error).__name__}: {one_line(str(error))})") from error


@contextmanager
def serve(
    name: str, spec: ServerSpec, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[McpServer]:
    """Connect to a server; one by command is started in `folder`, and ends with the block as all that it starts does.

    Args:
        environment: variables that it is given beside those of its `spec`.

    Raises:
        StageError: it does not start or cannot be reached.
    """
    from anyio.from_thread import start_blocking_portal
    from mcp import Client

    child = Child(spec.command, _given(name, spec, environment or {}), folder) if spec.command else None
    transport = child.transport() if child else _by_address(name, spec)
    with start_blocking_portal() as portal:
        client = Client(transport, read_timeout_seconds=spec.timeout_s, cache=None)
        opened = portal.wrap_async_context_manager(client)
        try:
            opened.__enter__()
        except Exception as error:  # of the transport, the protocol or the operating system, alone or in a group
            first: BaseException = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if of_the_machine(first):
                raise
            words = child.last_words() if child else ""
            raise StageError(
                f"tools.servers.{name}: the MCP server `{spec.place}` does not start "
                f"({type(first).__name__}: {one_line(str(first))}{words}); try it by hand"
            ) from error
        try:
            yield McpServer(name, spec, portal, client, child)
        finally:
            opened.__exit__(None, None, None)


def read_servers(path: Path) -> dict[str, ServerSpec]:
    """The servers that the stage `tools` asked, by name."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: validate(ServerSpec, spec, f"{path}: {name}") for name, spec in content.items()}


def bounded(text: str) -> str:
    """`text` as it can be written down: no longer than `MAX_RESULT`, no lone surrogates."""
    whole = len(text)
    text = characters(text[:MAX_RESULT])
    return text if whole <= MAX_RESULT else f"{text}… (cut; {whole} characters in all)"


def _given(name: str, spec: ServerSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server by command."""
    from mcp.client.stdio import get_default_environment

    given = get_default_environment() | dict(environment)
    for entry in spec.environment:
        variable, sign, value = entry.partition("=")
        given[variable] = value if sign else _variable(name, "environment", variable)
    # The programs of this environment come first, so that `python` is the one with the project's packages.
    given["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return given


def _by_address(name: str, spec: ServerSpec) -> AbstractAsyncContextManager[Any]:
    variable = spec.api_key_variable
    key = _variable(name, "api_key_variable", variable) if variable else ""
    return connected(spec.url or spec.sse, bool(spec.sse), key, spec.timeout_s)


def _variable(name: str, key: str, variable: str) -> str:
    if variable not in os.environ:
        raise StageError(f"tools.servers.{name}.{key}: no environment variable {variable}; export it")
    return os.environ[variable]

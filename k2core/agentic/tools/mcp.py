"""Real MCP servers over stdio: their tools as specs, and calls that are really executed.

The servers are packages of the environment (`SERVERS`), each a process of its own that ends with the `with` block.
`mcp-server-sqlite` is left out: its last release does not start under version 2 of the `mcp` library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.agentic.tools.simulator import Outcome, State, check_call
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall, schema_fault
from k2core.stage import StageError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from mcp import Client

SERVERS = {
    "time": ("mcp_server_time", ("--local-timezone=UTC",), "time"),  # else the machine's zone is in the descriptions
    "git": ("mcp_server_git", (), "version control"),
}
"""Name → (Python module, arguments, category)."""

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Author", "GIT_AUTHOR_EMAIL": "author@example.org", "GIT_AUTHOR_DATE": "2025-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "Author", "GIT_COMMITTER_EMAIL": "author@example.org",
    "GIT_COMMITTER_DATE": "2025-01-01T00:00:00Z",
}  # fmt: skip
"""Independent of the machine's configuration and clock."""


_PLAIN = re.compile(r"\w[\w.-]*")
"""Names of repositories, branches and files: none leads out of the folder or is an option."""


@dataclass
class McpServer:
    """A running server."""

    name: str
    portal: BlockingPortal
    client: Client

    def tools(self) -> list[ToolSpec]:
        """Its tools, in the server's order; titles, which repeat the names, are left out of the schemas.

        Raises:
            StageError: the schema of one cannot be used.
        """
        category = SERVERS[self.name][2]
        specs = [
            ToolSpec(
                tool.name, " ".join((tool.description or "").split()), _untitled(tool.input_schema), self.name,
                category, f"mcp:{self.name}", None, "train",
            )
            for tool in self.portal.call(self.client.list_tools).tools
        ]  # fmt: skip
        for tool in specs:
            if fault := schema_fault(tool.parameters):
                raise StageError(
                    f"the MCP server {self.name}: the schema of its tool {tool.name} cannot be used ({fault}); "
                    "take the server out of tools.servers"
                )
        return specs

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Really call a tool; a failure that the server reports is the text it gives."""
        result: Any = self.portal.call(self.client.call_tool, name, arguments)
        return "\n".join(part.text for part in result.content if part.type == "text")


@contextmanager
def serve(name: str, folder: Path) -> Iterator[McpServer]:
    """Start the server `name` of `SERVERS` in `folder`, as a child process.

    Raises:
        StageError: it does not start.
    """
    from anyio.from_thread import start_blocking_portal
    from mcp import Client, MCPError, StdioServerParameters

    module, arguments, _ = SERVERS[name]
    parameters = StdioServerParameters(
        command=sys.executable, args=["-c", f"import {module}; {module}.main()", *arguments], cwd=folder,
        env=GIT_ENVIRONMENT,
    )  # fmt: skip
    with start_blocking_portal() as portal:
        opened = portal.wrap_async_context_manager(Client(parameters))
        try:
            client = opened.__enter__()
        except (ExceptionGroup, MCPError, OSError) as error:
            raise StageError(
                f"the MCP server {name} ({module}) does not start ({error}); try `python -m {module}` by hand"
            ) from error
        try:
            yield McpServer(name, portal, client)
        finally:
            opened.__exit__(None, None, None)


@dataclass
class GitWorld:
    """A real repository that `mcp-server-git` works on.

    Args:
        server: running in the folder where the repository is to be made.
        initial: `{"git": {name: {"branch", "branches", "staged", "files"}}}` with one repository; `files` are
            untracked.
    """

    server: McpServer
    folder: Path
    tools: Mapping[str, ToolSpec]
    initial: State
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        ((self.name, wanted),) = self.initial["git"].items()
        for name in (self.name, wanted["branch"], *wanted["branches"], *wanted["files"]):
            if not _PLAIN.fullmatch(name):
                raise StageError(f"git_tasks.jsonl: {name[:80]!r} is no name of this project's; run `tasks` again")
        self.path = self.folder / self.name
        self.path.mkdir(parents=True)
        self._git("init", "--quiet", f"--initial-branch={wanted['branch']}")
        self._git("commit", "--quiet", "--allow-empty", "--message=Start")
        for branch in wanted["branches"]:
            if branch != wanted["branch"]:
                self._git("branch", branch)
        for file in wanted["files"]:
            (self.path / file).write_text(f"{file}\n")

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call; a repository other than this one counts as malformed."""
        try:
            _, arguments = check_call(call, self.tools)
            if arguments.get("repo_path") != self.name:
                raise ValueError(f"no repository {str(arguments.get('repo_path'))[:40]}")
            if option := next((value for value in _texts(arguments) if value.startswith("-")), None):
                raise ValueError(f"{option[:40]} would be an option of git's")
            outcome = Outcome(self.server.call(call.name, arguments), tool=call.name)
        except ValueError as error:
            outcome = Outcome({"error": str(error)}, valid=False, tool=call.name)
        self.outcomes.append(outcome)
        return outcome

    @property
    def state(self) -> State:
        """The repository as it is now, in the form of `initial`."""
        staged = self._git("diff", "--cached", "--name-only").split()
        return {"git": {self.name: {
            "branch": self._git("branch", "--show-current").strip(),
            "branches": sorted(self._git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()),
            "staged": sorted(staged),
            "files": sorted(self._git("ls-files", "--others").split()),
        }}}  # fmt: skip

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, env=os.environ | GIT_ENVIRONMENT, capture_output=True, text=True)
        if done.returncode:
            raise StageError(f"`{' '.join(command)}` failed: {done.stderr.strip()[:200]}")
        return done.stdout


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _untitled(schema: Any) -> Any:
    """A schema without pydantic's titles."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if key != "title" or not isinstance(value, str)}
        return {key: _untitled(value) for key, value in kept.items()}
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema

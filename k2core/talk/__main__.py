"""The command: `make chat`, or `python -m k2core.talk [MODEL]`."""

from __future__ import annotations

import io
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import typer

from k2core.gym.base import SYSTEM
from k2core.recipe import RecipeError
from k2core.stage import StageError
from k2core.storage import StorageError
from k2core.storage.foreign import one_line, printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
HELP = """\
/tools            what tools there are
/tools NAME       begin with the tools of a domain (a small world is made up) or of an MCP server (it is started)
/tools NAME TOOL… … with these of them: each takes room in the model's context
/new              begin again
/quit             leave; so do Ctrl-D, and Ctrl-C while nothing is being written"""


@app.command()
def main(
    model: Path = typer.Argument(Path("models/export"), help="folder of an exported model"),
    tools: Path = typer.Option(Path("data/tools"), help="folder that the stage `tools` wrote"),
    temperature: float = typer.Option(0.0, min=0.0, help="0: always the likeliest token"),
    max_tokens: int = typer.Option(256, min=1, help="tokens of one reply, at most"),
    system: str = typer.Option(SYSTEM, help="system message, where a domain's tools do not bring theirs"),
    seed: int = typer.Option(1, help="of the sampling and of made-up worlds"),
) -> None:
    """Talk to a model. Its calls are held to the declared tools; one to an MCP server is made when you have agreed.

    A domain's tools act on a small world made up for the chat. Ctrl-C ends the reply that is being written.
    """
    try:
        _talk(model, tools, temperature, max_tokens, system, seed)
    except (StageError, StorageError, RecipeError) as error:
        print(printable(f"chat: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None


def _talk(folder: Path, tools: Path, temperature: float, max_tokens: int, system: str, seed: int) -> None:
    print(f"loading {folder} …", flush=True)
    from k2core.chat.parser import ToolCall
    from k2core.chat.tokenizer import Tokenizer
    from k2core.formats.huggingface import load_huggingface
    from k2core.inference.enforcer import Enforcer
    from k2core.talk.session import Full, Session
    from k2core.talk.tools import Cupboard

    model, tokenizer = load_huggingface(folder).eval(), Tokenizer.load(folder)
    always: set[str] = set()

    def allowed(call: ToolCall) -> bool:
        if call.name in always:
            return True
        answer = _ask(printable(f"  call {call.name} with {call.arguments}? [y]es, [n]o, [a]lways: "))
        if (answer or "n").strip().lower().startswith("a"):
            always.add(call.name)
        return (answer or "n").strip().lower()[:1] in ("y", "a")

    session = Session(
        model, tokenizer, Enforcer(tokenizer), max_tokens, temperature, seed,
        heard=lambda piece: print(printable(piece), end="", flush=True),
        called=lambda call, result: print(printable(f"  {call.name} {call.arguments}\n  → {result}")),
        allowed=allowed, system=system,
    )  # fmt: skip
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are shown as such, and end no chat
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {session.room} tokens of context. "
          "/help says what there is.")  # fmt: skip
    with ExitStack() as running, tempfile.TemporaryDirectory(prefix="k2-chat-") as place:
        while (line := _ask("\n> ")) is not None and line.split()[:1] != ["/quit"]:
            words = line.split()
            if not words:
                continue
            if words[0] == "/help":
                print(HELP)
            elif words[0] == "/new":
                session.begin(session.tools)
                print(f"  a new dialogue{', with the same tools' if session.tools else ''}")
            elif words[0] == "/tools":
                try:
                    cupboard = Cupboard(tools)
                    if len(words) == 1:
                        print(", ".join(cupboard.names))
                        continue
                    running.close()
                    opened = running.enter_context(cupboard.open(words[1], words[2:], seed, Path(place)))
                    session.begin(opened)
                    if session.used >= session.room:
                        print(f"  the declarations take {session.used} of {session.room} tokens; name fewer tools")
                        running.close()
                        session.begin(None)
                        continue
                    names = ", ".join(tool["function"]["name"] for tool in opened.declarations)
                    print(printable("\n".join(filter(None, [
                        f"{names}: {session.used} of {session.room} tokens", opened.world]))))  # fmt: skip
                except (StageError, StorageError) as error:
                    print(printable(f"  {error}"))
            elif words[0].startswith("/"):
                print(f"  no command {one_line(words[0])}; /help says what there is")
            else:
                try:
                    session.say(line)
                    print()
                except Full as error:
                    print(f"  {error}")


def _ask(prompt: str) -> str | None:
    """A line that the user types; None at its end and at Ctrl-C."""
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()
        return None


if __name__ == "__main__":
    app()

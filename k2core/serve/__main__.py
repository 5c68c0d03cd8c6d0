"""The command: `make serve`, or `python -m k2core.serve [MODEL]`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import typer

from k2core.recipe import RecipeError
from k2core.stage import StageError
from k2core.storage import StorageError
from k2core.storage.foreign import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
KEY = "K2_SERVE_KEY"


@app.command()
def main(
    model: Path = typer.Argument(Path("models/export"), help="folder of an exported model; clients use its name"),
    host: str = typer.Option("127.0.0.1", help="address to listen on; any other than this machine's own needs a key"),
    port: int = typer.Option(8000, min=0, max=65535, help="0: any that is free"),
    rows: int = typer.Option(64, min=1, help="answers written at the same time"),
    waiting: int = typer.Option(256, min=1, help="answers that may wait for a row; beyond, clients get a 429"),
) -> None:
    """Serve a model to OpenAI's clients until Ctrl-C. Its tool calls are held to the declared tools.

    Clients must show the key in the environment variable K2_SERVE_KEY, if it is set.
    """
    try:
        _serve(model, host, port, rows, waiting)
    except (StageError, StorageError, RecipeError) as error:
        print(printable(f"serve: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print()


def _serve(folder: Path, host: str, port: int, rows: int, waiting: int) -> None:
    from k2core.machine.device import choose
    from k2core.machine.proxies import LOOPBACK

    key = os.environ.get(KEY, "")
    local = host in LOOPBACK
    if not local and not key:
        raise StageError(f"{host} can be reached from other machines; set a key for the clients in {KEY}")
    try:
        listens = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StageError(f"nothing can listen on {host}:{port} ({error.strerror}); choose another --port") from None
    with listens:
        print(f"loading {folder} …", flush=True)
        choose("auto", "auto")
        import uvicorn

        from k2core.serve.app import Desk, Served, application

        served = Served.load(folder, rows, waiting)
        app = application(served, key, local)
        desk: Desk = app.state.desk

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                desk.engine.close()  # so that answers under way end now, with a sentence
                await super().shutdown(sockets)

        address = f"http://{f'[{host}]' if ':' in host else host}:{listens.getsockname()[1]}/v1"
        print(
            f"{served.name} on {address}: {served.limits.context} tokens of context, {rows} answers at once"
            f"{', with a key' if key else ''}. Ctrl-C ends it.", flush=True,
        )  # fmt: skip
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2)
        Server(config).run(sockets=[listens])


if __name__ == "__main__":
    app()

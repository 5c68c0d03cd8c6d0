"""Tokens per second through the server against `transformers serve`: the same weights, client and requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx

from benchmarks.harness import ROOT, Entry, alternate, compare
from benchmarks.scale import Scale, build
from k2core.chat.jinja_template import CHAT_TEMPLATE
from k2core.chat.tokenizer import Tokenizer
from k2core.formats.huggingface import save_huggingface

TOPIC = "serve"
CLIENTS = (1, 8, 64)
TOKENS = 16
STARTING_S = 180
PEER = ("-m", "transformers.cli.transformers", "serve")


def run(scale: Scale) -> list[Entry]:
    """An entry for each number of clients, with the first model; none where the peer cannot run."""
    if find_spec("accelerate") is None:
        print("`transformers serve` needs accelerate, which the project does not: .venv/bin/pip install accelerate")
        return []
    size, config = next(iter(scale.models.items()))
    entries = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        texts = [path.read_text() for path in sorted(Path(os.__file__).parent.glob("*.py"))]
        vocabulary = max(config.vocab_size, 512)
        tokenizer = Tokenizer.train(texts, vocabulary)
        tokenizer.save(folder)
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        model = build(config.model_copy(update={"vocab_size": vocabulary, "max_position_embeddings": 512}))
        save_huggingface(model, folder, eos_token_ids=[tokenizer.im_end_id])
        words = [str(folder), "--port"]
        with (
            server(["-m", "k2core.serve", *words], scale.threads) as ours,
            server([*PEER, *words], scale.threads) as peer,
            httpx.Client(timeout=600, limits=httpx.Limits(max_connections=CLIENTS[-1])) as client,
        ):
            for clients in [count for count in CLIENTS if count <= scale.sequences]:
                tokens: dict[str, list[int]] = {"ours": [], "peer": []}
                times = alternate(
                    {"ours": asking(client, ours, folder.name, clients, scale.new_tokens, tokens["ours"]),
                     "peer": asking(client, peer, str(folder), clients, scale.new_tokens, tokens["peer"])},
                    rounds=scale.few_rounds, seconds=0,
                )  # fmt: skip
                rates = {name: [n / t for n, t in zip(tokens[name][1:], times[name], strict=True)] for name in times}
                entries.append(compare(
                    f"server, {clients} client{'s' * (clients > 1)}, {size}", rates["ours"], rates["peer"],
                    unit="tokens/s", ratio_of="ours / peer", better="higher", goal=None, topic=TOPIC,
                    note=f"`transformers serve`; greedy chat completions of {min(TOKENS, scale.new_tokens)} tokens",
                ))  # fmt: skip
    return entries


def asking(
    client: httpx.Client, address: str, model: str, clients: int, tokens: int, into: list[int]
) -> Callable[[], None]:
    """Each of `clients` asks once, at the same time; the tokens of the answers go `into` the list."""

    def ask(number: int) -> int:
        body = {
            "model": model, "messages": [{"role": "user", "content": f"Count to {number}."}], "temperature": 0,
            "max_tokens": min(TOKENS, tokens),
        }  # fmt: skip
        response = client.post(f"{address}/chat/completions", json=body).raise_for_status()
        return response.json()["usage"]["completion_tokens"]

    def work() -> None:
        with ThreadPoolExecutor(clients) as pool:
            into.append(sum(pool.map(ask, range(clients))))

    return work


@contextmanager
def server(words: list[str], threads: int) -> Iterator[str]:
    """The address of a server, which runs while the block does; the port is the last of its words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *words, str(port)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + STARTING_S
        while True:
            try:
                httpx.get(f"{address}/models", timeout=60)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(words[:2])} did not start") from None
                time.sleep(0.5)
        yield address
    finally:
        process.kill()
        process.wait()

"""A server that answers an environment's questions as a function says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from k2core.llm.config import LLMConfig

ASKED = re.compile(r'The text: (".*")\n\nThe question: (.*)', re.DOTALL)


@contextmanager
def model_server(replies: Callable[[list[dict[str, str]]], str]) -> Iterator[LLMConfig]:
    """`replies` to the messages of each request, behind an address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message = {"role": "assistant", "content": replies(body["messages"])}
            content = json.dumps({
                "id": "1", "object": "chat.completion", "created": 0, "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield LLMConfig(
            base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", api_key_variable="", context=512,
            timeout_s=5, max_attempts=2, max_wait_s=0.1, concurrency=2, expected_tokens_per_second=70,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def judge_server(says: Callable[[str, str], str]) -> Iterator[LLMConfig]:
    """A judge that answers a text and a question with a word."""

    def replies(messages: list[dict[str, str]]) -> str:
        found = ASKED.fullmatch(messages[-1]["content"])
        assert found, messages
        return json.dumps({"answer": says(json.loads(found[1]), found[2])})

    with model_server(replies) as config:
        yield config

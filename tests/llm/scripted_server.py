"""A small real HTTP server that speaks OpenAI's chat completions and has the faults it is told to have."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from k2core.llm.config import LLMConfig

Action = int | str
"""An HTTP status, or: "hang" (1 s late), "drop" (no answer at all), "cut" (the line dies half-way), "truncated"
(half a body that calls itself whole), "garbage", "no choices", "empty", "no text", "length" (cut by max_tokens),
"half" (of a character, in an answer with line separators),
"blanks" (one now and then in place of a body), "headers" (one now and then, without an end), "flood" (a body without an
end), "flood 500" and "flood 307" (an error and a redirect without an end), "bomb" (a compressed body), "echo",
"echo escaped" and "echo 401" (our key), "many tokens" (a count of 401 digits)."""


def completion(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8},
    }  # fmt: skip


class Server:
    """Plays `script`, an action per request, then 200 forever; a prompt in `always` meets its action every time.

    Attributes:
        bodies: the requests received, in order.
        sent: bytes of what has no end.
        room: with more requests in flight, a request gets 429.
        dies_after: requests after which it drops everything until `dies_after` is None again.
    """

    def __init__(self) -> None:
        self.script: list[Action] = []
        self.always: dict[str, Action] = {}
        self.bodies: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.in_flight = self.most_in_flight = 0
        self.room = 10**9
        self.dies_after: int | None = None
        self.delay = 0.0
        self.sent = 0
        self.lock = threading.Lock()
        self.port = 0
        self.start()

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server.lock:
                    action = server.action(body)
                    server.in_flight += 1
                    server.most_in_flight = max(server.most_in_flight, server.in_flight)
                time.sleep(1.0 if action == "hang" else server.delay)
                try:
                    server.answer(self, action, f"answer to {body['messages'][-1]['content']}")
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client gave up, as the test of time-outs wants
                finally:
                    with server.lock:
                        server.in_flight -= 1

            def log_message(self, *arguments: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def action(self, body: dict[str, Any]) -> Action:
        self.bodies.append(body)
        if self.dies_after is not None and len(self.bodies) > self.dies_after:
            return "drop"
        if self.in_flight >= self.room:
            return 429
        if (always := self.always.get(body["messages"][-1]["content"])) is not None:
            return always
        return self.script.pop(0) if self.script else 200

    def answer(self, handler: BaseHTTPRequestHandler, action: Action, text: str) -> None:
        if action == "drop":
            handler.close_connection = True
            return
        if action in ("blanks", "headers", "flood", "flood 500", "flood 307"):
            self.endless(handler, str(action))
            return
        content = json.dumps(
            {"error": {"message": f"status {action}"}} if isinstance(action, int) and action != 200
            else {"choices": []} if action == "no choices"
            else completion(None) if action == "no text"
            else completion(" \n") if action == "empty"
            else completion(text, "length") if action == "length"
            else completion(f"your key is {handler.headers['authorization']}") if action == "echo"
            else {"error": {"message": f"wrong key {handler.headers['authorization']}"}} if action == "echo 401"
            else completion(text)
        ).encode()  # fmt: skip
        if action == "echo escaped":
            key = handler.headers["authorization"]
            content = json.dumps(completion("your key is KEY")).encode()
            content = content.replace(b"KEY", "".join(rf"\u{ord(c):04X}" if c != "/" else r"\/" for c in key).encode())
        if action == "many tokens":
            content = content.replace(b'"completion_tokens": 7', b'"completion_tokens": 1' + b"0" * 400)
        if action == "half":
            content = content.replace(b"answer to", rb"\u2028\u2029\u0085\u000b\u000c \ud83d answer to")
        if action == "garbage":
            content = b"<html>\xff\xfe502 Bad Gateway</html>"
        if action == "truncated":
            content = content[: len(content) // 2]
        zipped = {"content-encoding": "gzip"} if action == "bomb" else {}
        if zipped:
            content = gzip.compress(bytes(2**26))
        handler.send_response(action if isinstance(action, int) else 401 if action == "echo 401" else 200)
        for name, value in {"content-type": "application/json", **zipped, **self.headers}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if action == "cut" else content)
        handler.close_connection = action == "cut"

    def endless(self, handler: BaseHTTPRequestHandler, action: str) -> None:
        """Send something until the client has had enough: 50 pieces per second, or as fast as it goes."""
        handler.close_connection = True
        handler.send_response({"flood 500": 500, "flood 307": 307}.get(action, 200))
        if action == "flood 307":
            handler.send_header("location", f"{self.url}/elsewhere")
        if action == "headers":
            handler.flush_headers()
        else:
            handler.send_header("content-length", str(10**12))
            handler.end_headers()
        piece = {"blanks": b" ", "headers": b"x: y\r\n"}.get(action, bytes(2**16))
        while self.sent < 3 * 10**8:
            handler.wfile.write(piece)
            self.sent += len(piece)
            if len(piece) < 10:
                time.sleep(0.02)

    def asked(self) -> Counter[str]:
        """How often each prompt came."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)


def config(url: str, **changes: Any) -> LLMConfig:
    values = {
        "base_url": url, "model": "m", "api_key_variable": "", "context": 512, "timeout_s": 0.5, "max_attempts": 4,
        "max_wait_s": 0.05, "concurrency": 3, "expected_tokens_per_second": 70,
    }  # fmt: skip
    return LLMConfig(**{**values, **changes})

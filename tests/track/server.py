"""As much of a W&B server as one run needs, and ports where there is none."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_DROP_S = 0.5
"""Seconds from byte to byte of an answer that drips."""


class Server(ThreadingHTTPServer):
    """Answers as its ``mood`` says, which may change at any time.

    "good" takes everything, "500" and "401" answer with that, "hanging" answers nothing,
    "dripping" a byte in a while; "gone" hangs up, and takes no calls after `leave`.
    """

    daemon_threads = True

    def __init__(self, mood: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood = mood
        self.rows: list[dict[str, Any]] = []
        self.run: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def leave(self) -> None:
        """Be gone: calls are refused from now on."""
        self.mood = "gone"
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""

    def reply(self, path: str, body: bytes) -> dict[str, Any]:
        if "file_stream" in path:
            stream = json.loads(body)
            files = stream.get("files") or {}
            for line in files.get("wandb-history.jsonl", {"content": []})["content"]:
                self.rows.append(json.loads(line))
            for line in files.get("wandb-summary.json", {"content": []})["content"]:
                self.summary |= json.loads(line)
            if stream.get("complete"):
                self.exit_codes.append(stream["exitcode"])
            return {}
        if path != "/graphql":
            return {}
        query = json.loads(body)
        values = query.get("variables") or {}
        project = {"id": "P", "name": "dwt", "entity": {"id": "E", "name": "team"}}
        if "upsertBucket" in query["query"]:
            self.run |= {key: value for key, value in values.items() if value}
            bucket = {"id": "R", "name": values["name"], "config": "{}", "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if query.get("operationName") == "RunResumeStatus":
            return {"data": {"model": project | {"bucket": None}}}
        if query.get("operationName") == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/up/{n}"} for n in values["files"]]
            made = {"runID": "R", "uploadHeaders": [], "files": files}
            return {"data": {"createRunFiles": made}}
        return {"data": {}}


class _Handler(BaseHTTPRequestHandler):
    """Answers calls as the server's mood says."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        mood = self.server.mood
        if self.spoils():
            return
        answer = json.dumps(self.server.reply(self.path, body) if mood == "good" else {}).encode()
        self.send_response(200 if mood == "good" else int(mood))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def spoils(self) -> bool:
        """Give no right answer, if that is the mood; return whether it is."""
        mood = self.server.mood
        if mood == "dripping":
            drops = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nX-Long: " + bytes(9999)
            for drop in drops:
                self.wfile.write(bytes([drop]))
                if self.server.closing.wait(_DROP_S):
                    break
        elif mood == "hanging":
            self.server.closing.wait()
        is_spoilt = mood in ("dripping", "hanging", "gone")
        self.close_connection |= is_spoilt
        return is_spoilt

    def do_HEAD(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(mood: str) -> Iterator[Server]:
    server = Server(mood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


@contextmanager
def closed_port() -> Iterator[str]:
    """A port where nothing listens: bound, so that nobody else takes it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"

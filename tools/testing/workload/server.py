# SPDX-License-Identifier: GPL-2.0
"""The host's side of the network test: sends random bytes, receives a file."""

import hashlib
import http.server
import os
import threading

DOWNLOAD_BYTES = 24 << 20


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET /download and /sha256; POST /upload answers with the checksum."""

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Sends the random bytes, or their checksum."""
        owner = self.server.owner
        if self.path == "/download":
            self._answer(owner.content)
            owner.sent += len(owner.content)
        elif self.path == "/sha256":
            self._answer(owner.checksum.encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """Receives a file."""
        owner = self.server.owner
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                break
            digest.update(data)
            left -= len(data)
            owner.received += len(data)
        owner.uploads.append(digest.hexdigest())
        self._answer(owner.uploads[-1].encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments) -> None:
        """Says nothing: the guest's side reports."""


class Server:
    """A server on the host's loopback, which the guest sees as 10.0.2.2."""

    def __init__(self) -> None:
        self.content = os.urandom(DOWNLOAD_BYTES)
        self.checksum = hashlib.sha256(self.content).hexdigest()
        self.sent = 0
        self.received = 0
        self.uploads: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What the guest connects to."""
        return f"http://10.0.2.2:{self._server.server_port}"

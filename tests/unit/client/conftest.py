"""The API over a real socket with TLS from the hub's own authority, and a hub that answers as a script says."""

from __future__ import annotations

import http.server
import socket
import threading
from collections import deque

import pytest
import uvicorn
from tests.unit.api.conftest import World

from wardround.client import HubClient, Wire
from wardround.trust.certificates import Authority, key_pem, new_key

DEADLINE_S = 60.0


class Serving:
    """A world's API that can be called."""

    def __init__(self, world, folder):
        authority = Authority.create(folder / "pki", "hub")
        key = new_key()
        (folder / "hub.key").write_bytes(key_pem(key))
        (folder / "hub.pem").write_bytes(authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 24.0))
        self.world, self.ca = world, folder / "pki" / "ca.pem"
        self._socket = socket.create_server(("127.0.0.1", 0))  # listens from now on: nobody has to wait for the thread
        self.address = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            world.app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1,
            ssl_certfile=folder / "hub.pem", ssl_keyfile=folder / "hub.key",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: self._server.run(sockets=[self._socket]), daemon=True)
        self._thread.start()

    def client(self, person="oskar", scopes=("read", "alerts", "studies", "edges")):
        return HubClient(Wire(self.address, self.world.token(person, scopes), ca=self.ca, timeout_s=DEADLINE_S))

    def close(self):
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        self._socket.close()


@pytest.fixture
def serving(tmp_path):
    world = World(tmp_path)
    made = Serving(world, tmp_path)
    yield made
    made.close()
    world.store.close()


class Scripted:
    """A hub that gives one answer after the other: status, headers, body, or None to hang up. What it was asked is noted."""

    def __init__(self, answers):
        self.answers, self.asked = deque(answers), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one(self):
                size = int(self.headers.get("Content-Length", 0))
                outer.asked.append((self.command, self.path, dict(self.headers), self.rfile.read(size)))
                made = outer.answers.popleft() if outer.answers else None
                if made is None:
                    self.close_connection = True
                    return
                status, headers, body = made
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - names of the library

            def log_message(self, *_):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE_S)


@pytest.fixture
def scripted():
    made = []

    def make(*answers):
        made.append(Scripted(answers))
        return made[-1]

    yield make
    for one in made:
        one.close()

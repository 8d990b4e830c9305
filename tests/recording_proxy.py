"""Stands between an edge and its hub, ends TLS on both sides, and keeps every byte that the edge sends.

It can, because a test holds both keys: to the edge it is the hub, to the hub it is the edge. What it keeps is the payload of the
HTTP/2 DATA frames, by stream, so that a value which is cut by a frame is whole again.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections import defaultdict
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, PADDED = 0, 8


class RecordingProxy:
    """Listens on a port of its own; `sent` is what the edge has sent so far."""

    def __init__(self, pki: Path, identity: Path, hub_port: int) -> None:
        self._to_edge = _context(ssl.PROTOCOL_TLS_SERVER, pki / "hub.pem", pki / "hub.key", pki / "ca.pem")
        self._to_hub = _context(ssl.PROTOCOL_TLS_CLIENT, identity / "edge.pem", identity / "edge.key", identity / "ca.pem")
        self._hub_port = hub_port
        self._lock = threading.Lock()
        self._plain: dict[int, bytearray] = defaultdict(bytearray)  # by connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def sent(self) -> list[bytes]:
        """The data of every stream of every connection."""
        with self._lock:
            plain = [bytes(p) for p in self._plain.values()]
        return [data for connection in plain for data in _streams(connection).values()]

    def holds(self, marker: bytes) -> bool:
        return any(marker in data for data in self.sent)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                edge, _ = self._listener.accept()
                number += 1
                threading.Thread(target=self._serve, args=(edge, number), daemon=True).start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            edge = self._to_edge.wrap_socket(plain, server_side=True)
            with edge, socket.create_connection(("127.0.0.1", self._hub_port), 5) as raw:
                raw.settimeout(None)
                with self._to_hub.wrap_socket(raw) as hub:
                    back = threading.Thread(target=_copy, args=(hub, edge, lambda _data: None), daemon=True)
                    back.start()
                    _copy(edge, hub, lambda data: self._keep(number, data))

    def _keep(self, number: int, data: bytes) -> None:
        with self._lock:
            self._plain[number] += data


def _context(kind: int, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.set_alpn_protocols(["h2"])
    return context


def _copy(source: ssl.SSLSocket, sink: ssl.SSLSocket, keep) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            keep(data)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _streams(plain: bytes) -> dict[int, bytes]:
    """The payload of the DATA frames (RFC 9113 section 4.1), by stream; a frame that is not whole yet is left out."""
    found: dict[int, bytearray] = defaultdict(bytearray)
    at = len(PREFACE) if plain.startswith(PREFACE) else 0
    while at + 9 <= len(plain):
        size = int.from_bytes(plain[at : at + 3], "big")
        kind, flags, stream = plain[at + 3], plain[at + 4], struct.unpack(">I", plain[at + 5 : at + 9])[0] & 0x7FFFFFFF
        payload = plain[at + 9 : at + 9 + size]
        if len(payload) < size:
            break
        if kind == DATA:
            found[stream] += payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
        at += 9 + size
    return {stream: bytes(data) for stream, data in found.items()}

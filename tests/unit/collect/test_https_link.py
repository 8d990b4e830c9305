"""The HTTPS listener's answers: 202 after the commit alone, and every refusal by its status."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect import https_link
from wardround.collect.https_link import HttpsListener, serve
from wardround.collect.registry import Device
from wardround.settings import HttpsSettings

BODY = b'[{"n":"heart-rate","u":"/min","v":61}]'


class Devices:
    def check(self, device, secret):
        return (device, secret) == ("d1", "right")

    def get(self, device):
        return Device(device, "P1", "", "")


class Edge:
    """Takes messages as an edge would, or does not."""

    def __init__(self, tmp_path, *, keeps=True, body_bytes_max=1_000):
        self.kept = []
        self.keeps = keeps
        self.listener = HttpsListener(
            self.submit, devices=Devices(), identity=tmp_path, settings=HttpsSettings(body_bytes_max=body_bytes_max)
        )
        self.body_bytes_max = body_bytes_max

    async def submit(self, device, boot, seq, payload):
        if not self.keeps:
            await asyncio.Event().wait()
        self.kept.append((device, boot, seq, payload))

    async def talk(self, data, *, cut=False, to_the_end=False):
        """What comes back for these bytes, over a plain connection."""

        ended = asyncio.Event()

        async def connected(reader, writer):
            await serve(reader, writer, self.listener.answer, body_bytes_max=self.body_bytes_max)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        async with asyncio.timeout(5):
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
                if cut:
                    writer.write_eof()
            found = await reader.read(-1) if cut or to_the_end else await reader.readuntil(b"}")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await ended.wait()
        server.close()
        return found

    def send(self, data, **how):
        return asyncio.run(self.talk(data, **how))


def request(body=BODY, *, device="d1", secret="right", method="POST", path="", **headers):
    given = {"Host": "edge", "Content-Length": len(body), "Authorization": f"Bearer {secret}"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
    path = path or f"/v1/devices/{device}/messages"
    return f"{method} {path} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(answer):
    return int(answer.split()[1])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(https_link, "WRONG_SECRET_S", 0.0)
    monkeypatch.setattr(https_link, "RECEIPT_S", 0.1)


def test_a_message_is_receipted_once_it_is_kept(tmp_path):
    edge = Edge(tmp_path)
    answer = edge.send(request(Wardround_Boot="life-1", Wardround_Seq=7))
    assert status(answer) == 202
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"boot": "life-1", "seq": 7}
    assert edge.kept == [("d1", "life-1", 7, BODY)]


def test_a_plain_device_numbers_nothing(tmp_path):
    edge = Edge(tmp_path)
    assert status(edge.send(request())) == 202
    assert edge.kept == [("d1", "", 0, BODY)]


def test_what_is_not_on_the_disk_is_not_receipted(tmp_path):
    answer = Edge(tmp_path, keeps=False).send(request())
    assert status(answer) == 503
    assert b"Retry-After: 5" in answer


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(secret="wrong"), 401),
        (request(device="d2"), 401),
        (request(Authorization=None), 401),
        (request(Authorization="Basic ZDE6cmlnaHQ="), 401),
        (request(path="/"), 404),
        (request(path="/v1/devices/../messages"), 404),
        (request(method="PUT"), 405),
        (request(b""), 400),
        (request(b"x" * 1_001), 413),
        (request(Content_Type="application/fhir+json"), 415),
        (request(Content_Type="text/html"), 415),
        (request(Content_Type="application/senml+json; charset=utf-8"), 202),
        (request(Wardround_Seq="1"), 400),
        (request(Wardround_Boot="b", Wardround_Seq="0"), 400),
        (request(Wardround_Boot="b", Wardround_Seq="-1"), 400),
        (request(Wardround_Boot="a/b", Wardround_Seq="1"), 400),
        (request(X="y" * 200_000), 431),
        (b"hello\r\n\r\n", 400),
    ],
)
def test_statuses(tmp_path, data, expected):
    edge = Edge(tmp_path)
    assert status(edge.send(data)) == expected
    assert len(edge.kept) == (expected == 202)


def test_an_unknown_sender_s_body_is_not_read(tmp_path):
    head = request(secret="wrong", Content_Length=900).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert b"Connection: close" in Edge(tmp_path).send(head)


def test_a_body_in_chunks_is_bounded_too(tmp_path):
    chunked = request(b"", Content_Length=None, Transfer_Encoding="chunked")
    assert (
        status(Edge(tmp_path).send(chunked + b"300\r\n" + b"x" * 0x300 + b"\r\n300\r\n" + b"x" * 0x300 + b"\r\n0\r\n\r\n")) == 413
    )
    edge = Edge(tmp_path)
    assert status(edge.send(chunked + b"5\r\nhello\r\n0\r\n\r\n")) == 202
    assert edge.kept[0][3] == b"hello"


def test_several_requests_on_one_connection(tmp_path):
    edge = Edge(tmp_path)
    answers = edge.send(request() + request(b"[2]") + request(b"[3]"), cut=True)
    assert answers.count(b"202") == 3
    assert [payload for *_, payload in edge.kept] == [BODY, b"[2]", b"[3]"]


def test_a_body_that_ends_early_is_not_kept(tmp_path):
    edge = Edge(tmp_path)
    edge.send(request()[:-5], cut=True)
    assert edge.kept == []


def test_a_slow_head_and_a_slow_body_end(tmp_path, monkeypatch):
    monkeypatch.setattr(https_link, "HEAD_S", 0.05)
    monkeypatch.setattr(https_link, "BODY_S", 0.05)

    assert Edge(tmp_path).send(b"POST / HT", to_the_end=True) == b""
    assert status(Edge(tmp_path).send(request()[:-5], to_the_end=True)) == 408


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 150))
def test_rubbish_ends_the_connection_and_keeps_nothing(tmp_path_factory, rubbish, at):
    edge = Edge(tmp_path_factory.getbasetemp())
    data = request()
    at = min(at, len(data) - len(BODY))
    edge.send(data[:at] + rubbish, cut=True)
    assert all(payload != BODY for *_, payload in edge.kept)

"""A ClientApp that stays: loaded once, then one call for each message that its edge's training worker hands over.

Flower starts a process for every message; here the process stays, so what an app keeps in globals stays too. `Context.state`
comes with each message and goes back with its reply: the edge keeps it on disk.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp.client_app import ClientApp, LoadClientAppError
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from wardround.flower.frames import Header, receive, send
from wardround.flower.guest.records import message, packed, unpacked

LOAD_CLIENT_APP_EXCEPTION, CLIENT_APP_RAISED_EXCEPTION = 1, 2  # Flower's ErrorCode
SERVER_NODE_ID = 1


def main(descriptor: str) -> int:
    """Serve until the other side is gone."""
    link = socket.socket(fileno=int(descriptor))
    try:
        start, _ = receive(link)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = start["run_id"], start["node_id"], 1
        try:
            app = loaded(start)
        except Exception as error:  # noqa: BLE001 - whatever an app does when it is imported, the edge gets an answer
            send(link, {"op": "error", "code": LOAD_CLIENT_APP_EXCEPTION, "reason": said(error)})
            return 1
        send(link, {"op": "ready"})
        while True:
            header, payload = receive(link)
            answer, data = answered(app, start, header, payload)
            send(link, answer, data)
    except EOFError:
        return 0


def loaded(start: Header) -> Any:
    """The app, imported.

    Raises:
        LoadClientAppError: there is none of this name; or whatever its code raises.
    """
    os.chdir(start["folder"])
    app = load_app(start["clientapp"], LoadClientAppError, Path(start["folder"]))
    if not isinstance(app, ClientApp):
        raise LoadClientAppError(f"{start['clientapp']} is a {type(app).__name__}, not a ClientApp")
    return app


def answered(app: Any, start: Header, header: Header, payload: bytes) -> tuple[Header, bytes]:
    """The app's reply to one message, and its state after it."""
    at = header["content_size"]
    context = Context(
        run_id=start["run_id"],
        node_id=start["node_id"],
        node_config=dict(header["node_config"]),
        state=unpacked(payload[at:]),
        run_config=dict(start["run_config"]),
    )
    asked = message(header["message"], unpacked(payload[:at]), run_id=start["run_id"], src=SERVER_NODE_ID, dst=start["node_id"])
    try:
        reply: Any = app(message=asked, context=context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp gave back a {type(reply).__name__}, not a Message")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001 - an app's own error is its reply
        print(f"ClientApp: {said(error)}", file=sys.stderr)  # noqa: T201 - the edge's log
        return {"op": "error", "code": CLIENT_APP_RAISED_EXCEPTION, "reason": said(error)}, b""
    if reply.has_error():
        return {"op": "error", "code": reply.error.code, "reason": (reply.error.reason or "")[:1_000]}, b""
    content = packed(reply.content)
    return {"op": "reply", "content_size": len(content)}, content + packed(context.state)


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}"[:1_000]

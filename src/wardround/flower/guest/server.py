"""A ServerApp over Wardround edges: loads the app that `hello` names, and runs it with our Grid."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp.server_app import LoadServerAppError, ServerApp
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from wardround.flower.guest.grid import RunEnded, WardroundGrid

SERVER_NODE_ID = 1


def main(socket_path: str) -> int:
    """Run one app; `WARDROUND_FLOWER` in the environment holds what to run, as JSON."""
    start = json.loads(os.environ.pop("WARDROUND_FLOWER"))
    folder, hello = Path(start["folder"]), start["hello"]
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = hello["run_id"], SERVER_NODE_ID, 1
    try:
        app = load_app(start["serverapp"], LoadServerAppError, folder)
        if not isinstance(app, ServerApp):
            raise LoadServerAppError(f"{start['serverapp']} is a {type(app).__name__}, not a ServerApp")
        grid = WardroundGrid(socket_path, hello)
    except RunEnded as error:
        print(f"Wardround: {error}", file=sys.stderr)  # noqa: T201 - what the person at the terminal reads
        return 3
    context = Context(
        run_id=hello["run_id"],
        node_id=SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(hello["run_config"]),
    )
    try:
        app(grid=grid, context=context)
    except RunEnded as error:
        print(f"Wardround: the run has ended: {error}", file=sys.stderr)  # noqa: T201
        return 3
    except Exception:  # noqa: BLE001 - the app's own error, whole, for whoever wrote it
        traceback.print_exc()
        return 1
    finally:
        grid.close()
    return 0

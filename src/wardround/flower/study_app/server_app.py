"""The study's hub on a Flower federation: hands the coordinator's orders to nodes as messages, and their updates to it."""

import select
import socket
import subprocess
import time

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from .frames import receive, send
from .study import STUDY

app = ServerApp()
NODES_S, PULL_S = 2.0, 0.2


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study to its end; the model and its history are in the folder that run_config["out"] names."""
    config = context.run_config
    ours, theirs = socket.socketpair()
    host = subprocess.Popen(
        [str(config["wardround-python"]), "-m", "wardround.flower.study_host", str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    try:
        send(ours, {"op": "start", "study": STUDY, "folder": str(config["out"])})
        carry(grid, ours)
    except EOFError:
        raise RuntimeError("the study's coordinator has ended: see what it wrote above") from None
    finally:
        ours.close()
        host.wait(30)


def carry(grid: Grid, host: socket.socket) -> None:
    """Between host and nodes until the host says that the study is finished."""
    asked = {}  # message id: what was asked of which node
    nodes_at_s = pull_at_s = 0.0
    while True:
        now_s = time.monotonic()
        if now_s >= nodes_at_s:
            send(host, {"op": "nodes", "nodes": [int(n) for n in grid.get_node_ids()]})
            nodes_at_s = now_s + NODES_S
        if asked and now_s >= pull_at_s:
            for reply in grid.pull_messages(list(asked)):
                tell(host, asked.pop(reply.metadata.reply_to_message_id, None), reply)
            pull_at_s = now_s + PULL_S
        if not select.select([host], [], [], 0.05)[0]:
            continue
        header, model = receive(host)
        if header["op"] == "order":
            message = order_message(header, model)
            for message_id in grid.push_messages([message]):
                asked[message_id] = header
        elif header["op"] == "cancel":
            asked = {i: h for i, h in asked.items() if h["node"] != header["node"]}
        elif header["op"] == "said":
            print(header["words"], flush=True)
        elif header["op"] == "finished":
            return


def order_message(header: dict, model: bytes) -> Message:
    """An order as a message: its facts as a config, the model's file as one array of bytes."""
    facts = ConfigRecord({k: header[k] for k in ("study", "round", "task", "settings", "counted")})
    array = Array("uint8", (len(model),), "safetensors", model)
    content = RecordDict({"order": facts, "model": ArrayRecord({"model": array})})
    return Message(content, header["node"], "train", ttl=header["deadline_s"], group_id=str(header["round"]))


def tell(host: socket.socket, asked, reply: Message) -> None:
    """A node's update, or why there is none, to the host."""
    if asked is None:  # cancelled meanwhile
        return
    facts = {"node": asked["node"], "round": asked["round"], "base": asked["base"], "task": asked["task"]}
    if reply.has_error():
        send(host, {"op": "failed", **facts, "reason": reply.error.reason or f"error {reply.error.code}"})
        return
    metrics = {k: float(v) for k, v in reply.content["metrics"].items()}
    examples = int(metrics.pop("num-examples"))
    send(host, {"op": "update", **facts, "examples": examples, "metrics": metrics}, reply.content["update"]["update"].data)

"""The study's edge on a Flower federation: hands an order to Wardround's learner, which reads the data of the edge's home.

node_config: `wardround-home`, the folder of an edge (its local store); `wardround-python`, if it is another than the study's.
What the edge keeps (control variates, a personal model) is in Context.state; it moves on once the hub counts the update.
"""

import socket
import subprocess

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .frames import receive, send

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """One training."""
    order, config = msg.content["order"], context.node_config
    if "wardround-home" not in config:
        raise ValueError("this node has no wardround-home: start it with --node-config 'wardround-home=\"/path/of/an/edge\"'")
    kept = settled(context, str(order["study"]), counted=bool(order["counted"]))
    model = msg.content["model"]["model"].data
    header = {
        "home": str(config["wardround-home"]),
        "edge": f"node-{context.node_id}",
        "round": int(order["round"]),
        "task": str(order["task"]),
        "settings": str(order["settings"]),
        "model_size": len(model),
    }
    python = str(config.get("wardround-python", context.run_config["wardround-python"]))
    said, data = asked(python, header, model + kept)
    if said["op"] != "update":
        raise RuntimeError(said["reason"])
    context.state["wardround"] = ConfigRecord({"study": str(order["study"]), "kept": kept, "next": data[said["size"] :]})
    metrics = MetricRecord({**said["metrics"], "num-examples": said["examples"]})
    update = data[: said["size"]]
    content = {"update": ArrayRecord({"update": Array("uint8", (len(update),), "safetensors", update)}), "metrics": metrics}
    return Message(RecordDict(content), reply_to=msg)


def settled(context: Context, study: str, *, counted: bool) -> bytes:
    """What this edge keeps, now that the hub has said whether its last update counts."""
    if "wardround" not in context.state or context.state["wardround"]["study"] != study:
        return b""
    state = context.state["wardround"]
    return bytes(state["next"] if counted and state["next"] else state["kept"])


def asked(python: str, header: dict, payload: bytes) -> tuple[dict, bytes]:
    """One question to Wardround's learner, in a process of its own."""
    ours, theirs = socket.socketpair()
    command = [python, "-m", "wardround.flower.study_edge", str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        try:
            send(ours, header, payload)
            return receive(ours)
        except EOFError:
            raise RuntimeError(f"the learner ended with {process.wait()}: see this node's log") from None
        finally:
            ours.close()

"""A ClientApp of the Message API. `fault` in a message's config makes one node misbehave, for tests."""

import os
import signal
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ward_numpy.task import load_data, loss, train

app = ClientApp()


@app.train()
def train_message(msg: Message, context: Context) -> Message:
    node = int(context.node_config.get("partition-id", 0))
    x, y = load_data(node)
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    weights = train(weights, x, y, float(context.run_config["learning-rate"]))
    seen = int(context.state["seen"]["rounds"]) + 1 if "seen" in context.state else 1
    context.state["seen"] = ConfigRecord({"rounds": seen})
    examples, found = len(y), loss(weights, x, y)
    fault = str(msg.content["config"]["fault"]) if node == 0 else ""
    if fault == "nan":
        weights = weights * np.float32("nan")
    elif fault == "shape":
        weights = weights[:1]
    elif fault == "examples":
        examples = -9
    elif fault == "raise":
        raise ValueError("this node has no luck")
    elif fault == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "slow":
        time.sleep(120)
    metrics = MetricRecord({"num-examples": examples, "loss": found, "seen": seen})
    if "wardround-examples" in context.node_config:  # the edge's own
        with np.load(str(context.node_config["wardround-examples"])) as own:
            metrics["own-rows"], metrics["own-labelled"] = len(own["features"]), int((own["labels"] >= 0).sum())
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate_message(msg: Message, context: Context) -> Message:
    x, y = load_data(int(context.node_config.get("partition-id", 0)))
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": len(y), "loss": loss(weights, x, y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


@app.query("who")
def who(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"who": ConfigRecord({"node": str(context.node_config["partition-id"])})}), reply_to=msg)

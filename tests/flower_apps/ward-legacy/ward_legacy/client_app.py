"""A NumPyClient, as apps before the Message API are written."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from ward_legacy.task import load_data, loss, train


class Client(NumPyClient):
    def __init__(self, node: int, learning_rate: float):
        self.x, self.y = load_data(node)
        self.learning_rate = learning_rate

    def get_parameters(self, config):
        return [np.zeros(3, dtype=np.int64)]

    def fit(self, parameters, config):
        weights = train(parameters[0], self.x, self.y, self.learning_rate)
        return [weights], len(self.y), {"loss": loss(weights, self.x, self.y)}

    def evaluate(self, parameters, config):
        return loss(parameters[0], self.x, self.y), len(self.y), {}


def client_fn(context):
    return Client(int(context.node_config.get("partition-id", 0)), float(context.run_config["learning-rate"])).to_client()


app = ClientApp(client_fn=client_fn)

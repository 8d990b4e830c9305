"""server_fn with the older FedAvg, which asks a client for the first parameters; writes what came of it to `out`."""

import json
import time
from pathlib import Path

from flwr.common import parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


class Noting(FedAvg):
    out = ""
    rounds = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.marks = []

    def aggregate_fit(self, server_round, results, failures):
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        self.weights = [float(w) for w in parameters_to_ndarrays(parameters)[0]]
        return parameters, metrics

    def evaluate(self, server_round, parameters):
        self.marks.append((server_round, time.time()))

    def aggregate_evaluate(self, server_round, results, failures):
        loss, metrics = super().aggregate_evaluate(server_round, results, failures)
        if self.out and server_round == self.rounds:
            facts = {"weights": self.weights, "loss": loss, "failures": len(failures), "marks": self.marks}
            Path(self.out).write_text(json.dumps(facts))
        return loss, metrics


def server_fn(context):
    nodes = int(context.run_config["nodes"])
    strategy = Noting(
        min_fit_clients=nodes,
        min_evaluate_clients=nodes,
        min_available_clients=nodes,
    )
    strategy.out, strategy.rounds = str(context.run_config["out"]), int(context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=strategy.rounds))


app = ServerApp(server_fn=server_fn)

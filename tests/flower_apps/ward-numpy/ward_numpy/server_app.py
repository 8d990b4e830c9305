"""A ServerApp with Flower's own strategies, one after the other; writes what came of each as JSON to `out`."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedTrimmedAvg, Krum

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = int(config["nodes"])
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.1)
    out = []
    for name in str(config["strategy"]).split():
        for fault in str(config["fault"]).split() or [""]:
            out.append(trained(grid, config, name, fault))
            if config["out"]:
                Path(str(config["out"])).write_text(json.dumps(out))


def trained(grid, config, name, fault):
    nodes = int(config["nodes"])
    common = {"min_train_nodes": nodes, "min_evaluate_nodes": nodes, "min_available_nodes": nodes}
    strategy = {
        "fedavg": lambda: FedAvg(**common),
        "fedadam": lambda: FedAdam(**common, eta=0.5),
        "krum": lambda: Krum(**common, num_malicious_nodes=0),
        "trimmed": lambda: FedTrimmedAvg(**common, beta=0.2),
    }[name]()
    marks = []

    def mark(server_round, arrays):
        marks.append((server_round, time.time()))

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(3, dtype=np.float32)]),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({"fault": fault}),
        evaluate_fn=mark,
    )
    return {
        "strategy": name,
        "fault": fault,
        "weights": [float(w) for w in result.arrays.to_numpy_ndarrays()[0]],
        "train": {r: dict(m) for r, m in result.train_metrics_clientapp.items()},
        "evaluate": {r: dict(m) for r, m in result.evaluate_metrics_clientapp.items()},
        "marks": marks,
    }

"""Watching patients at their edge, with or without a hub: vital signs, devices, certificates, the model that the edge holds.

What stands here joins steps: what the collector has kept (collect) goes through the detectors of the watch and the scores of the
transforms (process), and what the released model says of it (learn). `watching.py` is what an edge runs; `ledger.py` is its file.
Decision support. The monitor at the bedside is the primary alarm.
"""

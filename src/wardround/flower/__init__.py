"""Flower, both ways: their apps over our edges, our studies on their federations.

Flower's libraries and ours want different versions of the same things (protobuf, Typer, Rich), so `flwr` lives in an environment
of its own. What runs there is `guest/`: it imports flwr, NumPy and the plain files of this package, and speaks to the hub over a
Unix socket (`door.py`), to an edge's training worker over a socket pair (`answer.py`).

    ServerApp, Strategy  --  guest/grid.py  ==socket==  door.py, run.py (rounds, triage)  --  the hub's link
    the edge's link  --  training worker, answer.py  ==socket==  guest/client.py  --  ClientApp, NumPyClient
"""

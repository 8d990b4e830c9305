"""Hub and edges in one process, from a seed: runs.py plays them, promises.py says what must hold, toy.py trains at no cost."""

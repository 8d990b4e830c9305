"""What runs in Flower's own environment, started by file: `python .../wardround/flower/guest` (see __main__.py)."""

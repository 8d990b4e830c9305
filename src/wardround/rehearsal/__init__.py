"""A study rehearsed before a hospital runs it: examples over virtual edges, rounds by learn/fleet.py, scores by round."""

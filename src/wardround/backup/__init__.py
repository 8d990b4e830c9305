"""A home, hub's or edge's, into one file that holds no key, and back into an empty folder (docs/decisions/0010)."""

"""One file per device family: a payload to readings. Pure functions, no I/O; the standards' own examples are their tests.

`decoders.py` chooses by format. A payload that cannot be read is refused by name: a wrong number is worse than a refusal.
"""

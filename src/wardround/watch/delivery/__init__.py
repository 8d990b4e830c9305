"""Alerts to people elsewhere: what leaves (messages.py), on disk until it is delivered (outbox.py), by which way (sinks.py).

The hub's own state is the truth, and every sink is told of it at least once: a message is on disk before anything is sent,
leaves it after the sink has said that it has it, and keeps its id whatever happens. No patient data ever leaves.
"""

"""A Wardround study as a Flower app: `wardround flower export` copies this folder, frames.py and the study into one.

These files run in Flower's environment, at a SuperLink and its SuperNodes. They move bytes: rounds, triage and strategy are
Wardround's own coordinator (study_host.py) beside the ServerApp, training is Wardround's own learner (study_edge.py) beside each
ClientApp, each in the environment where Wardround is installed.
"""

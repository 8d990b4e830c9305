"""An edge asked from a Flower federation: its own settings hold there as well."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys

import pytest

from wardround.flower.frames import receive, send
from wardround.learn.study import LocalRule, encode_training, parse_study, training_settings
from wardround.process.transforms import TASKS

STUDY = 'name = "ward"\ntask = "activity"\n'
SETTINGS = encode_training(training_settings(parse_study(STUDY, where="a test"), TASKS["activity"], LocalRule()))
DEADLINE_S = 120


def asked(home, task="train"):
    """What the process that a node starts answers to one order."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    command = [sys.executable, "-m", "wardround.flower.study_edge", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        settings = base64.b64encode(SETTINGS).decode()
        send(ours, {"home": str(home), "edge": "", "task": task, "settings": settings, "model_size": 0, "round": 1}, b"")
        answer, _ = receive(ours)
        process.wait(DEADLINE_S)
    return answer


@pytest.mark.parametrize(
    ("privacy", "words"),
    [("blind_only = true", "under masks alone"), ("patient_epsilon_max = 8.0", "no noise bounds what this one spends")],
)
def test_a_clear_study_is_declined_by_an_edge_that_wants_more(tmp_path, privacy, words):
    (tmp_path / "edge.toml").write_text(f'name = "icu-a"\nhub_host = "h"\nhub_port = 1\n[privacy]\n{privacy}\n')
    answer = asked(tmp_path)
    assert answer["op"] == "failed"
    assert words in answer["reason"]

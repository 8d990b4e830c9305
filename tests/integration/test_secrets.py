"""No secret leaves its file: not into a log, a command line, or an environment that other processes could read."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import psutil
import pytest

from wardround.collect.mqtt_link import DeviceLink
from wardround.records import Consent
from wardround.trust import join


def said_by(processes):
    """Command line and environment of processes and of all they have started."""
    said = b""
    for process in processes:
        for one in [process, *process.children(recursive=True)]:
            for name in ("cmdline", "environ"):
                try:
                    said += Path(f"/proc/{one.pid}/{name}").read_bytes()
                except OSError:
                    continue
    return said


def forms(secret: bytes):
    """How a secret could be written down."""
    return {secret, base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"="), secret.hex().encode()}


@pytest.mark.timeout(360)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc is not here")
def test_no_secret_is_in_a_log_a_command_line_or_an_environment(site):
    site.start_hub()
    text = site.token("icu-b")  # refused below, so that the hub has something to log
    edge = site.edge("icu-a")
    secret, _ = site.device("icu-a", "d1", Consent.RAW)
    password = site.sign_in()
    edge.start()
    edge.wait_ready(150)
    for tried in (secret, "a-wrong-secret-of-a-device"):
        link = DeviceLink(
            "d1",
            tried,
            boot="life",
            host="127.0.0.1",
            port=site.mqtt_port("icu-a"),
            authority=site.folder / "icu-a" / "identity" / "ca.pem",
            on_receipted=lambda _seqs: None,
        )
        link.publish(b'[{"n":"heart-rate","u":"/min","v":61}]', timeout_s=5)
        link.drain(2.0)
        link.close()
    from wardround.trust.enrolment import join_hub

    join_hub(text, site.folder / "icu-b")
    with pytest.raises(Exception, match="already used"):
        join_hub(text, site.folder / "icu-c")
    time.sleep(1.0)

    secrets = {secret.encode(), b"a-wrong-secret-of-a-device", password.encode(), text.encode(), text.rsplit(".", 1)[1].encode()}
    secrets |= forms(join.parse(text).secret)
    keys = [*site.home.rglob("*.key"), *(site.folder / "icu-a").rglob("*.key")]
    assert len(keys) >= 4
    for path in keys:
        data = path.read_bytes()
        secrets |= set(data.splitlines()[1:-1]) if data.startswith(b"-----") else forms(data)
    secrets -= {s for s in secrets if len(s) < 8}

    said = said_by([psutil.Process(p.process.pid) for p in site.programs if p.running])
    assert b"wardround.cli.main" in said  # it was looked at
    assert os.environ.get("PATH", "").encode() in said
    logs = b"".join(path.read_bytes() for path in site.folder.glob("*.log"))
    assert b"edge joined" in logs
    assert b"join refused" in logs
    found = [s[:12] for s in secrets if s in said or s in logs]
    assert found == []

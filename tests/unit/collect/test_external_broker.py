"""A broker that is not the edge's own: without the secret for it the edge says what is missing."""

from __future__ import annotations

import pytest

from wardround.collect.mqtt_link import secret_at_broker
from wardround.errors import SettingsError


def test_the_secret_is_what_the_file_holds(tmp_path):
    (tmp_path / "mqtt.secret").write_text("s3cret\n")
    assert secret_at_broker(tmp_path) == "s3cret"


@pytest.mark.parametrize("held", [None, b"", b"\n", b"\xff\xfe"])
def test_without_one_the_edge_says_which_file_to_write(tmp_path, held):
    if held is not None:
        (tmp_path / "mqtt.secret").write_bytes(held)
    with pytest.raises(SettingsError, match=r"wardround-collector") as caught:
        secret_at_broker(tmp_path)
    assert str(tmp_path / "mqtt.secret") in str(caught.value)
    assert "0600" in caught.value.remedy

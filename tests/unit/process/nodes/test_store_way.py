"""Where a container is led to reach an object store, and which stores it cannot be led to."""

from __future__ import annotations

import json

import pytest

from wardround.errors import ProcessError
from wardround.process.nodes.store_way import store_way

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


def way(endpoint="", uri="s3://lake/w", environment=KEYS, **options):
    given = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    return store_way(uri, given | options, environment)


def test_a_folder_is_mounted():
    assert store_way("/var/lake", {}, KEYS) is None


@pytest.mark.parametrize(
    ("endpoint", "host", "port", "name", "seen"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1", 9000, "", "http://127.0.0.1:9000"),
        ("https://minio.ward:9000", "minio.ward", 9000, "minio.ward", "https://minio.ward:9000"),
        ("https://s3.example.org", "s3.example.org", 443, "s3.example.org", "https://s3.example.org"),
        ("http://10.1.2.3:9000", "10.1.2.3", 9000, "", "http://127.0.0.1:9000"),
    ],
)
def test_the_relay_leads_to_the_endpoint_and_the_container_keeps_its_name(endpoint, host, port, name, seen):
    found = way(endpoint)
    assert (found.host, found.port, found.name) == (host, port, name)
    assert json.loads(found.secret)["options"]["AWS_ENDPOINT_URL"] == seen
    assert bool(found.authorities) == endpoint.startswith("https")


def test_a_store_of_a_region_has_its_own_name():
    found = way(AWS_REGION="eu-central-1")
    assert (found.host, found.port) == ("s3.eu-central-1.amazonaws.com", 443)
    found = way(region="eu-central-1", virtual_hosted_style_request="true")
    assert found.host == "lake.s3.eu-central-1.amazonaws.com"


def test_keys_come_from_the_environment_and_are_not_shown():
    found = way("http://127.0.0.1:9000", AWS_ACCESS_KEY_ID="other")
    assert found.options["AWS_ACCESS_KEY_ID"] == "other"
    assert found.options["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"uri": "gs://lake/w"}, "S3 alone"),
        ({"environment": {}}, "no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY"),
        ({"endpoint": "https://10.1.2.3:9000"}, "certificate is for a number"),
        ({"endpoint": "ftp://host"}, "not an endpoint"),
        ({"endpoint": "http://:9000"}, "names no host"),
        ({"endpoint": "http://host:99999"}, "not an endpoint"),
    ],
)
def test_a_store_that_cannot_be_reached_is_named_with_what_to_do(arguments, words):
    with pytest.raises(ProcessError, match=words) as caught:
        way(**arguments)
    assert caught.value.remedy

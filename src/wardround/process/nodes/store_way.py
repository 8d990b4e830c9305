"""The way of a container to a lake in an object store: where its third relay leads, under which name, with which keys.

A container has no network (docs/decisions/0004), so the relay leads to the store's endpoint and to nothing else. The container
knows the endpoint by its own name, which its hosts file gives to the loopback, at its own port: TLS goes from worker to store
and is checked against that name, and what a request's signature says of its host is true at both ends. Keys are taken from the
hub's environment and reach the worker as a file that Podman keeps apart, never as an argument or in the container's environment.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from wardround.errors import ProcessError
from wardround.ports import LOOPBACK

SCHEMES = ("s3", "s3a")
REGION = "us-east-1"  # delta-rs's own when nobody names one
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_FROM_ENVIRONMENT = (
    *(*KEYS, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"),
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
)
_OTHER_WORDS = {"AWS_ENDPOINT": "AWS_ENDPOINT_URL", "AWS_TOKEN": "AWS_SESSION_TOKEN", "AWS_BUCKET": "AWS_BUCKET_NAME"}
TRUE = ("1", "true", "on", "yes", "y")


@dataclass(frozen=True, slots=True)
class StoreWay:
    """How a container reaches the store."""

    host: str  # where the relay leads, as the hub sees it
    port: int
    options: dict[str, str] = field(repr=False)  # of the lake, for the worker; its keys are among them
    name: str = ""  # the container's hosts file gives it to the loopback; "" when the endpoint is the loopback already
    authorities: bytes = b""  # who may vouch for the store's certificate; empty without TLS

    @property
    def secret(self) -> bytes:
        """What the worker reads from its file."""
        return json.dumps({"port": self.port, "options": self.options}).encode()


def store_way(uri: str, options: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> StoreWay | None:
    """The way to a lake; None for a folder, which is mounted.

    Raises:
        ProcessError: a container cannot be led to this store; its words say why and what to do.
    """
    if "://" not in uri:
        return None
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        raise ProcessError(
            f"containers reach object stores that speak S3 alone, not {parts.scheme}://", remedy="the hub's own workers read it"
        )
    known = {name: environment[name] for name in _FROM_ENVIRONMENT if environment.get(name)} | _in_one_spelling(options)
    missing = [name for name in KEYS if not known.get(name)]
    if missing:
        raise ProcessError(
            f"no {' and no '.join(missing)} in the hub's environment, so containers have no keys to the object store",
            remedy="set them where the hub starts; a container cannot ask the machine's own service for keys",
        )
    known.setdefault("AWS_REGION", known.get("AWS_DEFAULT_REGION", REGION))
    return _towards(known, bucket=parts.netloc)


def _towards(options: dict[str, str], *, bucket: str) -> StoreWay:
    own_host = options.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in TRUE
    endpoint = options.get("AWS_ENDPOINT_URL") or (
        f"https://{bucket}.s3.{options['AWS_REGION']}.amazonaws.com"
        if own_host
        else f"https://s3.{options['AWS_REGION']}.amazonaws.com"
    )
    parts = urlsplit(endpoint)
    try:
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (KeyError, ValueError) as exc:
        raise ProcessError(f"{endpoint!r} is not an endpoint", remedy="write https://HOST or https://HOST:PORT") from exc
    host, tls = parts.hostname or "", parts.scheme == "https"
    if not host:
        raise ProcessError(f"{endpoint!r} names no host", remedy="write https://HOST or https://HOST:PORT")
    authorities = _authorities() if tls else b""
    if host in (LOOPBACK, "localhost"):
        return StoreWay(LOOPBACK, port, options, authorities=authorities)
    if not _is_number(host):
        return StoreWay(host, port, options, name=host, authorities=authorities)
    if tls:
        raise ProcessError(
            f"containers cannot reach {endpoint}: its certificate is for a number, which nothing there can stand for",
            remedy="give the store a name (in the hub's hosts file, and in its certificate) and use that in AWS_ENDPOINT_URL",
        )
    return StoreWay(host, port, {**options, "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port}"})


def _in_one_spelling(options: Mapping[str, str]) -> dict[str, str]:
    """delta-rs takes `region`, `aws_region` and `AWS_REGION` for the same."""
    found = {}
    for name, value in options.items():
        word = name.upper() if name.upper().startswith("AWS_") else f"AWS_{name.upper()}"
        found[_OTHER_WORDS.get(word, word)] = value
    return found


def _authorities() -> bytes:
    """The authorities that this machine trusts, or those of SSL_CERT_FILE."""
    file = ssl.get_default_verify_paths().cafile
    if file is None:
        raise ProcessError(
            "this machine has no list of authorities", remedy="`apt install ca-certificates`, or set SSL_CERT_FILE"
        )
    return Path(file).read_bytes()


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

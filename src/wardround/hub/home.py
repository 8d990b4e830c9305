"""A hub's home: made, given the authority that an offline root has signed, given keys again after a backup; its certificate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from wardround.clock import Clock, SystemClock
from wardround.collect.signals import load_signals
from wardround.process.work import Known
from wardround.processing import Processing
from wardround.settings import HubSettings, load_settings
from wardround.store import Store, open_store
from wardround.store.opening import check_new
from wardround.trust import renewal
from wardround.trust.audit_files import open_log
from wardround.trust.authority_again import give_authority
from wardround.trust.certificates import HUB_NAME, Authority, describe, key_pem, names_host, new_key, write_private
from wardround.trust.homes import make_private
from wardround.trust.offline import install_authority, request_authority

HUB_CERTIFICATE_HOURS = 24.0 * 90


def create_home(home: Path, settings_text: str, settings: HubSettings, *, offline: bool = False) -> Store:
    """A new hub: its settings, its authority, its certificate, its store. `offline`: a root elsewhere signs its authority first.

    Raises:
        TrustError: there is a hub already.
        WardroundError: the database of its records cannot be opened, or has another hub's.
    """
    check_new(settings.store, home)
    make_private(home)
    if offline:
        request_authority(home / "pki", settings.name)
        (home / "hub.toml").write_text(settings_text, encoding="utf-8")
    else:
        authority = Authority.create(home / "pki", settings.name)
        (home / "hub.toml").write_text(settings_text, encoding="utf-8")
        _issue_hub_certificate(home, authority, settings)
    return open_store(home / "hub.sqlite")


def take_authority(home: Path, pem: bytes) -> Authority:
    """The authority that an offline root has signed, with that root: from now on the hub is of it.

    Raises:
        TrustError: it does not hold.
    """
    install_authority(home / "pki", pem, now_us=SystemClock().now_us())
    authority = Authority.load(home / "pki")
    _issue_hub_certificate(home, authority, load_settings(home / "hub.toml", HubSettings))
    return authority


def give_home_keys(home: Path, ca_key: Path | None, clock: Clock) -> None:
    """What a backup has not: the hub's authority, from the key that was kept or anew, its certificate, an entry in its log.

    Raises:
        TrustError: the key is another authority's.
    """
    settings = load_settings(home / "hub.toml", HubSettings)
    _issue_hub_certificate(home, give_authority(home, settings.name, ca_key), settings)
    with contextlib.closing(open_log(home, clock)) as audit:
        audit.add("system", "restored from a backup", "restore", new_authority=ca_key is None)


def _issue_hub_certificate(home: Path, authority: Authority, settings: HubSettings) -> None:
    key = new_key()
    hosts = sorted({settings.public_host, "127.0.0.1", "localhost"})
    write_private(home / "pki" / "hub.key", key_pem(key))
    write_private(
        home / "pki" / "hub.pem", authority.issue_hub(settings.name, key.public_key(), hosts, HUB_CERTIFICATE_HOURS), 0o644
    )


def open_processing(
    home: Path, settings: HubSettings, store: Store, clock: Clock, *, say: Callable[[str, str], None]
) -> Processing:
    """A home's lake, nodes and jobs, with what they need of the code table."""
    return Processing(home, settings, store, clock, known=known(), say=say)


def known() -> Known:
    """What transforms ask of the code table."""
    return Known(ranges={s.code: (s.low, s.high) for s in load_signals().rows.values()})


def renew_certificate(home: Path, settings: HubSettings, now_us: int) -> bool:
    """The hub is its own authority: its certificate is renewed at two thirds of its life; whether it was."""
    pem = (home / "pki" / "hub.pem").read_bytes()
    if now_us < renewal.due_us(describe(pem), 0.0) and names_host(pem, HUB_NAME):
        return False
    _issue_hub_certificate(home, Authority.load(home / "pki"), settings)
    return True

"""The Settings screen over a real hub.toml: what runs, what the file says by now, no secret, and who may see it."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from wardround.clock import ManualClock
from wardround.console import settings as screen
from wardround.console.looking import Held, Looking
from wardround.console.settings_model import SettingRow, SettingsView
from wardround.desks.settings import KEEP_S, HubSettingsDesk, meanings, shown
from wardround.settings import HubSettings, load_settings
from wardround.trust.roles import check_act

ROLES = {"olga": "operator", "cleo": "clinician", "dora": "data-officer", "vi": "viewer"}
TOML = 'site = "Northmoor"\npublic_url = "https://hub.example:7480"\n[console]\nidle_minutes = 30.0\n'


def text(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S))))


class Site:
    def __init__(self, home: Path, toml: str = TOML) -> None:
        self.home, self.clock = home, ManualClock(1_900_000_000_000_000)
        self.write(toml)
        self.desk = HubSettingsDesk(
            home,
            load_settings(home / "hub.toml", HubSettings),
            self.clock,
            check=lambda who, act: check_act(who, ROLES[who], act),
        )
        (self.page,) = screen.screens(self.desk)

    def write(self, toml: str) -> None:
        (self.home / "hub.toml").write_text(toml)

    def shown(self, name="olga", **params) -> str:
        self.clock.advance(KEEP_S + 1)
        looking = Looking(name, ROLES[name], address="/settings", params=params, held=Held())
        return text(" ".join(self.page.sections(looking).values()))


def test_what_is_set_is_shown_with_what_it_means(tmp_path):
    site = Site(tmp_path)
    shown = site.shown()
    assert "The hub runs with what hub.toml says: 3 keys of" in shown
    assert 'site "Northmoor" as it comes: "Wardround" the site' in shown
    assert "console.idle_minutes 30.0 as it comes: 60.0 without a key or a touch a session ends" in shown
    assert "backup.keep" not in shown
    everything = site.shown(show="all")
    assert "backup.keep 7 older ones of this hub in that folder are removed" in everything
    assert sum(row.changed for row in site.desk.view("olga").rows) == 3


def test_a_file_that_has_changed_counts_from_the_next_start_on(tmp_path):
    site = Site(tmp_path)
    site.write(TOML.replace("30.0", "15.0"))
    shown = site.shown()
    assert "hub.toml has changed since the start: console.idle_minutes." in shown
    assert "30.0 from the next start: 15.0" in shown
    site.write("sight = 'x'\n")
    shown = site.shown()
    assert "hub.toml does not hold as it is now: the hub would not start again." in shown
    assert "unknown key `sight`" in shown
    assert "did you mean `site`?" in shown
    assert "Northmoor" in shown
    (tmp_path / "hub.toml").unlink()
    assert "does not exist" in site.shown()


@pytest.mark.parametrize("name", ["cleo", "dora", "vi"])
def test_others_see_their_own_alone(tmp_path, name):
    shown = Site(tmp_path).shown(name)
    assert "Northmoor" not in shown
    assert "hub.example" not in shown
    assert "needs the role operator or admin" in shown
    assert "Second factor and recovery codes" in shown


def test_what_may_hold_a_secret_is_shown_in_part(tmp_path):
    site = Site(
        tmp_path,
        '[[notify]]\nkind = "webhook"\nurl = "https://u:hunter2@hooks.example:8443/services/T0/hunter3?t=hunter4"\n'
        '[at_rest]\nkek = "command:/bin/kek --pin hunter5"\n[processing]\nlake = "s3://bucket/folder"\n'
        '[processing.lake_options]\nAWS_SECRET_ACCESS_KEY = "hunter6"\nAWS_REGION = "eu-1"\n',
    )
    told = site.shown(show="all")
    assert "hunter" not in told
    assert "https://hooks.example:8443/..." in told
    assert "command:/bin/kek ..." in told
    assert "eu-1" in told
    assert shown("http://[broken") == '"..."'
    assert shown("s3://bucket/folder") == '"s3://bucket/folder"'


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://hook.example/hunter2", "https://hook.example/..."),
        ("https://api.example/bothunter2/sendMessage", "https://api.example/..."),
        ("https://ntfy.example?auth=hunter2", "https://ntfy.example/..."),
        ("http://127.0.0.1:9093", "http://127.0.0.1:9093"),
        ("smtps://ward@mail.example:465", "smtps://mail.example:465"),
        ("discord://4711/hunter2", "discord://..."),
        ("slack://hunter2/B1/C1", "slack://..."),
        ("tgram://4711:hunter2/1", "tgram://..."),
        ("hook.example/hunter2", "..."),
        ("", ""),
    ],
)
def test_of_a_way_to_people_no_part_is_shown_that_may_be_a_token(address, told):
    assert f'"url":"{told}"' in shown([{"kind": "apprise", "url": address}])


def test_every_setting_has_its_meaning(tmp_path):
    rows = Site(tmp_path).desk.view("olga").rows
    assert [row.key for row in rows if not row.meaning] == []
    assert {row.key for row in rows} == set(meanings())


def test_names_are_made_safe_and_links_lose_their_marks():
    row = SettingRow("site", '"<script>"', '"a"', "see [docs](x.md), `<b>`", file='"<img>"')
    html = " ".join(screen.sections(SettingsView("/<i>", 1, (row,), "<u>", "<s>"), Looking("a", "admin", held=Held())).values())
    for mark in ("<script>", "<img>", "<i>", "<u>", "<s>"):
        assert mark not in html
    assert "see docs, <code>&lt;b&gt;</code>" in html

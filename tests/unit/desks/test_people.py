"""Who comes in: password, code, recovery codes; what slows a guesser down; what ends a session. Over the real pages."""

from __future__ import annotations

import asyncio
import re
import threading

import httpx
import pytest
from fastapi import FastAPI

from wardround.clock import ManualClock
from wardround.console.door import COOKIE, Door, Sessions
from wardround.console.sign_in_pages import qr
from wardround.console.signing_in import HALF_S, SigningIn
from wardround.desks.people import STANDING_S, People
from wardround.errors import LoginRefused
from wardround.store import Person, open_store
from wardround.trust import second_factor as totp
from wardround.trust.passwords import Brake, hash_password

HASH = hash_password("right")


class Browser:
    """A jar of cookies, and calls through the whole application."""

    def __init__(self, app):
        self.app, self.cookies = app, httpx.Cookies()

    def call(self, method, path, **given):
        async def send():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://hub", cookies=self.cookies) as client:
                answer = await client.request(method, path, **given)
                self.cookies = client.cookies
                return answer

        return asyncio.run(send())

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, **given):
        return self.call("POST", path, **given)


class World:
    """A store with one person, the pages in front of it, and a browser."""

    def __init__(self, path, *, required=False):
        self.clock, self.store, self.entries = ManualClock(), open_store(path), []
        self.store.put_person(Person("ada", "operator", HASH, None))
        self.people = People(
            self.store, self.clock, record=lambda *e, **facts: self.entries.append((*e, facts)), site="T", required=required
        )
        self.sessions = Sessions(self.clock, life_s=43_200.0, idle_s=3_600.0, standing=self.people.standing)
        self.app = FastAPI()
        self.app.get("/")(lambda: "inside")
        signing = SigningIn(self.people, self.sessions, self.clock, secure=False, place=lambda: ("Test", False))
        signing.add_to(self.app)
        self.app.add_middleware(Door, sessions=self.sessions)
        self.browser = self.new_browser()

    def new_browser(self):
        return Browser(self.app)

    def post(self, path, browser=None, **form):
        return (browser or self.browser).post(path, data=form)

    def code(self):
        """The app's code in a half minute that is not used yet."""
        self.clock.advance(totp.STEP_S * 2)
        return totp.code_at(self.store.second_factor("ada").secret, totp.step_of(self.clock.now_us()))

    def wrong(self):
        """Six digits that are no code now."""
        now, secret = totp.step_of(self.clock.now_us()), self.store.second_factor("ada").secret
        near = {totp.code_at(secret, step) for step in range(now - 2, now + 3)}
        return next(code for code in map("{:06}".format, range(10)) if code not in near)

    def wait(self):
        """Until guesses are heard again, and standings are read anew."""
        self.clock.advance(Brake.WAIT_S_MAX + STANDING_S)

    def inside(self, browser=None):
        return (browser or self.browser).get("/").status_code == 200

    def with_factor(self):
        """Ada signs in and turns the second factor on; her recovery codes."""
        self.post("/login", name="ada", password="right")
        self.browser.get("/account")
        answer = self.post("/account/factor", code=self.code())
        assert answer.status_code == 200
        return re.findall(r"<li><code>([a-z0-9-]+)</code>", answer.text)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "hub.sqlite")
    yield made
    made.store.close()


def test_a_password_alone_is_enough_where_there_is_no_second_factor(world):
    assert not world.inside()
    assert world.post("/login", name="ada", password="wrong").status_code == 403
    answer = world.post("/login", name="ada", password="right")
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert world.inside()
    assert ("view", "signed in to the console", "ada", {"role": "operator", "how": "password"}) in world.entries
    assert any(entry[:2] == ("denied", "sign-in refused") for entry in world.entries)


def test_with_a_second_factor_the_password_opens_nothing(world):
    assert len(world.with_factor()) == totp.RECOVERY_CODES
    thief = world.new_browser()
    answer = world.post("/login", thief, name="ada", password="right")
    assert answer.headers["location"] == "/login/code"
    assert COOKIE not in answer.cookies
    assert not world.inside(thief)
    assert world.post("/login/code", thief, code=world.wrong()).status_code == 403
    assert not world.inside(thief)
    world.wait()
    world.post("/login", thief, name="ada", password="right")
    used = world.code()
    assert world.post("/login/code", thief, code=used).headers["location"] == "/"
    assert world.inside(thief)
    other = world.new_browser()  # who looked over her shoulder
    world.post("/login", other, name="ada", password="right")
    assert world.post("/login/code", other, code=used).status_code == 403


def test_a_recovery_code_opens_once(world):
    codes = world.with_factor()
    for expected in (303, 403):
        browser = world.new_browser()
        world.wait()
        world.post("/login", browser, name="ada", password="right")
        assert world.post("/login/code", browser, code=codes[0]).status_code == expected
    assert ("change", "recovery code used", "ada", {"left": totp.RECOVERY_CODES - 1}) in world.entries


def test_a_right_password_does_not_release_the_brake_on_codes(world):
    world.with_factor()
    said = []
    for _ in range(6):
        browser = world.new_browser()
        world.post("/login", browser, name="ada", password="right")
        said.append(world.post("/login/code", browser, code=world.wrong()).text)
    assert "too many attempts" in said[-1]
    browser = world.new_browser()
    world.post("/login", browser, name="ada", password="right")
    code = totp.code_at(world.store.second_factor("ada").secret, totp.step_of(world.clock.now_us()) + 1)
    assert world.post("/login/code", browser, code=code).status_code == 403  # even the right one waits


def test_many_guesses_at_once_are_many_guesses():
    clock = ManualClock()
    brake, through, start = Brake(clock), [], threading.Barrier(8)

    def guess():
        start.wait(30)
        try:
            brake.begin("ada")
        except LoginRefused:
            return
        through.append(1)

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(through) == 3


def test_the_half_way_token_ends_and_opens_no_other_step(world):
    world.with_factor()
    browser = world.new_browser()
    world.post("/login", browser, name="ada", password="right")
    assert browser.get("/login/enrol").headers["location"] == "/login"
    assert world.post("/login/enrol", browser, code=world.code()).status_code == 403
    assert browser.get("/login/code").status_code == 200
    world.clock.advance(HALF_S)
    assert browser.get("/login/code").headers["location"] == "/login"
    assert world.post("/login/code", browser, code=world.code()).status_code == 403


def test_a_hub_that_wants_it_of_everybody_lets_nobody_in_without(tmp_path):
    world = World(tmp_path / "hub.sqlite", required=True)
    try:
        answer = world.post("/login", name="ada", password="right")
        assert answer.headers["location"] == "/login/enrol"
        assert not world.inside()
        seen = [world.browser.get("/login/enrol").text, world.browser.get("/login/enrol").text]
        secrets = [re.search(r'id="secret">([^<]+)<', page)[1] for page in seen]
        assert secrets[0] != secrets[1]  # whoever has seen an earlier one knows nothing
        wrong = world.post("/login/enrol", code=world.wrong())
        assert secrets[1] in wrong.text
        assert not world.inside()
        answer = world.post("/login/enrol", code=world.code())
        assert answer.status_code == 200
        assert world.inside()
        assert "wants a second factor" in world.post("/account/factor/remove", code=world.code()).text
    finally:
        world.store.close()


def test_a_second_factor_is_turned_off_with_a_code_alone(world):
    world.with_factor()
    assert world.post("/account/factor/remove", code=world.wrong()).status_code == 403
    assert world.people.has_factor("ada")
    assert world.post("/account/factor/remove", code=world.code()).headers["location"] == "/account"
    assert not world.people.has_factor("ada")
    assert world.inside()


@pytest.mark.parametrize("change", ["role", "password", "gone", "factor"])
def test_a_session_ends_with_what_it_stands_on(world, change):
    world.post("/login", name="ada", password="right")
    assert world.inside()
    other = world.new_browser()
    if change == "role":
        world.store.put_person(Person("ada", "viewer", HASH, None))
    elif change == "password":
        world.store.put_person(Person("ada", "operator", hash_password("new"), None))
    elif change == "gone":
        world.store.remove_person("ada")
    else:
        world.post("/login", other, name="ada", password="right")
        other.get("/account")
        assert world.post("/account/factor", other, code=world.code()).status_code == 200
    world.clock.advance(STANDING_S)
    assert not world.inside()
    assert world.inside(other) == (change == "factor")  # who made it goes on


def test_other_sites_cannot_post_and_no_page_may_be_framed(world):
    world.post("/login", name="ada", password="right")
    for path in ("/login", "/login/code", "/account/factor", "/account/factor/remove", "/logout"):
        for headers in ({"origin": "http://evil.test"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
            assert world.browser.post(path, data={"code": "1"}, headers=headers).status_code == 403, path
    assert world.inside()
    for path in ("/login", "/account"):
        answer = world.browser.get(path)
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_the_qr_code_says_the_address():
    text = totp.address(b"12345678901234567890", person="ada", site="Test")
    drawn = qr(text)
    assert drawn != qr(text.replace("ada", "eve"))
    assert re.match(r'<svg class="qr" viewBox="-4 -4 \d+ \d+" role="img"', drawn)  # with its quiet zone
    assert drawn.count("h1v1h-1z") > 400

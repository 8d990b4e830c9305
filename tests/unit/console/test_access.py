"""The console's door over a real socket: every route without a session, from another site's page, in every size and spelling.

One console for the file: NiceGUI keeps its pages in the module.
"""

from __future__ import annotations

import re
import socket

import httpx
import pytest

from wardround.clock import ManualClock, SystemClock
from wardround.console import alerts, bedside, fleet, hand_over, settings, studies, study_new
from wardround.console.bodies import BODY_MAX
from wardround.console.door import COOKIE
from wardround.console.frame import SCREENS
from wardround.console.governance_pages import GovernancePages
from wardround.console.processing_pages import ProcessingPages
from wardround.console.record_exports import RecordExportPages
from wardround.console.server import Console, Listening
from wardround.console.study_files import study_files
from wardround.console.ward_pages import WardPages
from wardround.desks.people import People
from wardround.store import Person, open_store
from wardround.trust.passwords import hash_password

OPEN = "open"
SIGNED_IN = "signed-in"
# Every route of the console, and who may come so far. A new one without an entry fails.
ROUTES = {
    "GET /login": OPEN,
    "GET /login/code": OPEN,  # a page for who has shown a password; others are sent to /login
    "GET /login/enrol": OPEN,
    "POST /login": OPEN,
    "POST /login/code": OPEN,
    "POST /login/enrol": OPEN,
    "POST /logout": SIGNED_IN,
    "GET /account": SIGNED_IN,
    "POST /account/factor": SIGNED_IN,
    "POST /account/factor/remove": SIGNED_IN,
    "GET /": SIGNED_IN,
    "GET /completeness": SIGNED_IN,
    "GET /automation": SIGNED_IN,
    "GET /find": SIGNED_IN,
    "GET /ward": SIGNED_IN,
    "GET /ward/{part}/{item}": SIGNED_IN,
    "GET /ward/{edge}/{subject}/trend.csv": SIGNED_IN,
    "GET /processing": SIGNED_IN,
    "GET /governance": SIGNED_IN,
    "GET /governance/erasures/{item}": SIGNED_IN,
    "GET /governance/erasures/{number}/receipt.json": SIGNED_IN,
    "GET /governance/audit.log": SIGNED_IN,
    "GET /alerts": SIGNED_IN,
    "GET /alerts/{item}": SIGNED_IN,
    "GET /fleet": SIGNED_IN,
    "GET /fleet/{item}": SIGNED_IN,
    "GET /studies": SIGNED_IN,
    "GET /studies/{item}": SIGNED_IN,
    "GET /studies/{study}/models/{number}.zip": SIGNED_IN,
    "GET /new-study": SIGNED_IN,
    "GET /bedside": SIGNED_IN,
    "GET /hand-over": SIGNED_IN,
    "GET /hand-over/{item}": SIGNED_IN,
    "GET /records": SIGNED_IN,
    "GET /records/{subject}/everything.json": SIGNED_IN,
    "GET /settings": SIGNED_IN,
}
MOUNTS = {"MOUNT /static", "MOUNT /_nicegui_ws"}  # files that are the same for everybody; the live connection
DEADLINE_S = 60.0


class Desk:
    """A hub of which nothing may be asked by who has not signed in."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked by nobody who may")


class Place(Desk):
    site, simulated = "Test", True

    def overview(self):  # the site's name stands on the sign-in page
        return self


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    store = open_store(folder / "hub.sqlite")
    store.put_person(Person("ada", "admin", hash_password("right-right"), None))
    store.put_person(Person("bob", "viewer", hash_password("bob-s-own"), None))
    recorded = []
    clock = ManualClock(1_900_000_000)  # of the brake on guessing
    people = People(store, clock, record=lambda *words, **_: recorded.append(words), site="Test")
    pages = [made(Desk(), Place().overview) for made in (WardPages, ProcessingPages, GovernancePages)]
    pages.append(RecordExportPages(Desk()))
    made = Console(
        Place(),
        people,
        Listening("127.0.0.1", 0),
        SystemClock(),
        screens=[
            *(screen for page in pages for screen in page.screens()),
            *(
                screen
                for module in (alerts, bedside, fleet, hand_over, settings, studies, study_new)
                for screen in module.screens(Desk())
            ),
        ],
        files=[study_files(Desk()), *(page.add_files for page in pages if hasattr(page, "add_files"))],
    )
    made.recorded, made.guessing = recorded, clock
    made.app = made._app()
    made._app = lambda: made.app
    made.start()
    yield made
    made.close()
    store.close()


@pytest.fixture
def client(console):
    with httpx.Client(base_url=f"http://127.0.0.1:{console.port}", timeout=DEADLINE_S) as made:
        yield made


def session(console):
    """A cookie that opens."""
    token = console.sessions.start("ada", "admin", None, console._people.standing("ada"))
    return {"Cookie": f"{COOKIE}={token}"}


def raw(console, text: bytes, *, hang_up: bool = False) -> bytes:
    """What comes back for bytes that no client library would send, until the server closes; `hang_up`: no more will come."""
    with socket.create_connection(("127.0.0.1", console.port), timeout=DEADLINE_S) as opened:
        opened.sendall(text)
        if hang_up:
            opened.shutdown(socket.SHUT_WR)
        got = b""
        while part := opened.recv(65_536):
            got += part
        return got


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def routes(app):
    """Every route; what is mounted at a path of its own is its path alone."""
    for route in app.routes:
        if getattr(route, "methods", None):
            yield from (f"{method} {route.path}" for method in route.methods - {"HEAD", "OPTIONS"})
        elif route.path:
            yield f"MOUNT {route.path}"
        else:
            yield from routes(route)


def test_every_route_is_in_the_table(console):
    found = {re.sub(r"^[A-Z]+ /_nicegui/.*", "", route) for route in routes(console.app)} - {""}  # parts of pages, for everybody
    assert found == set(ROUTES) | MOUNTS
    assert {f"GET {place.address}" for place in SCREENS} <= found  # a screen that is in the navigation is here, too


@pytest.mark.parametrize("route", [route for route, who in ROUTES.items() if who is SIGNED_IN])
@pytest.mark.parametrize("cookie", ["", "wr-session=", "wr-session=AAAA", 'wr-session=;;="', "wr-half=AAAA"])
def test_nothing_opens_without_a_session(client, route, cookie):
    method, path = route.split(" ")
    answer = client.request(method, path, headers={"Cookie": cookie} if cookie else {})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.startswith("POST")])
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
    ids=str,
)
def test_a_form_on_another_site_changes_nothing(console, client, route, headers):
    opens = session(console)
    before = len(console.recorded)
    answer = client.post(
        route.split(" ")[1], headers=opens | headers, data={"name": "ada", "password": "right-right", "code": "1"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert len(console.recorded) == before
    assert client.get("/account", headers=opens).status_code == 200  # nobody was signed out


@pytest.mark.parametrize(
    ("headers", "code"), [({"Origin": "https://evil.example"}, 403), ({}, 403)], ids=["another site", "no session"]
)
def test_the_live_connection_has_the_same_door(console, client, headers, code):
    opens = session(console) if headers else {}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = client.get("/_nicegui_ws/socket.io/?EIO=4&transport=websocket", headers=opens | headers | upgrade | key)
    assert answer.status_code == code


@pytest.mark.parametrize("path", ["/login", "/account", "/static/console.css", "/nothing-here", "/_nicegui/nothing"])
def test_no_answer_may_be_framed_or_guessed_at(console, client, path):
    answer = client.get(path, headers=session(console))
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


WHO = b"<b>ada</b>, admin"  # on the account page
PLACES = """
    /static/../server.py /static/%2e%2e/server.py /static/..%2fserver.py /static/..%5cserver.py /static//etc/passwd /static/%00
    /static/../../account /static/..%2f..%2faccount /login/../account /_nicegui/../account //account /./account /%61ccount
    /account/ /ACCOUNT
"""


@pytest.mark.parametrize("path", PLACES.split())
def test_a_path_leads_past_no_door(console, path):
    answer = raw(console, f"GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
    assert statuses(answer)[0] in (303, 307, 400, 404, 405), answer[:200]
    assert b"class Console" not in answer
    assert WHO not in answer


def test_the_account_page_says_who_is_signed_in(console, client):
    assert WHO in client.get("/account", headers=session(console)).content


def test_a_session_is_made_at_the_sign_in_and_never_taken_from_the_browser(client):
    answer = client.post("/login", data={"name": "ada", "password": "right-right"}, headers={"Cookie": f"{COOKIE}=chosen"})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "chosen" not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert client.get("/account", headers={"Cookie": f"{COOKIE}=chosen"}).status_code == 303


def test_guessing_a_password_is_braked_though_the_right_one_comes(console, client):
    """After three wrong ones the right one is refused while the wait runs: for this name, and no other."""

    def tried(name, password):
        return client.post("/login", data={"name": name, "password": password})

    assert [tried("bob", f"guess {number}").status_code for number in range(3)] == [403] * 3
    assert "too many attempts" in tried("bob", "bob-s-own").text
    assert tried("ada", "right-right").status_code == 303
    console.guessing.advance(2.5)
    assert tried("bob", "guess 4").status_code == 403
    console.guessing.advance(2.5)
    assert "too many attempts" in tried("bob", "bob-s-own").text  # the wait has grown
    console.guessing.advance(2.0)
    assert tried("bob", "bob-s-own").status_code == 303


@pytest.mark.parametrize("path", ["/login", "/login/code", "/login/enrol"])
def test_a_form_may_not_be_of_any_size(console, client, path):
    large = client.post(path, content=b"name=" + b"x" * BODY_MAX, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert large.status_code == 413

    def parts():
        for _ in range(BODY_MAX // 4096 + 2):
            yield b"x" * 4096

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(path, content=parts(), headers=kind).status_code == 413


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
HIDDEN = "GET /account HTTP/1.1\r\nHost: hub\r\n\r\n"


@pytest.mark.parametrize(
    ("heads", "body"),
    [
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: +5\r\n", "a=b&c"),
        ("Content-Length: 0x5\r\n", "a=b&c"),
        ("Content-Length: 3\r\nContent-Length: 60\r\n", "a=b" + HIDDEN),
        ("Content-Length: 3, 60\r\n", "a=b" + HIDDEN),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n" + HIDDEN),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n" + HIDDEN),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + HIDDEN),
        ("Transfer-Encoding: chunked\r\n", "-1\r\n" + HIDDEN),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n" + HIDDEN),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n" + HIDDEN),
        ("Content-Length: 99999999999999999999999\r\n", "a=b"),
    ],
    ids=str,
)
def test_no_second_request_hides_in_the_length_of_a_first(console, heads, body):
    text = f"POST /login HTTP/1.1\r\nHost: hub\r\n{FORM}{heads}\r\n{body}".encode()
    assert statuses(raw(console, text)) == [400]
    with httpx.Client(base_url=f"http://127.0.0.1:{console.port}", timeout=DEADLINE_S) as client:
        assert client.get("/login").status_code == 200  # and the hub goes on


def test_a_form_that_was_cut_short_is_no_form(console):
    before = len(console.recorded)
    assert (
        raw(console, f"POST /login HTTP/1.1\r\nHost: hub\r\n{FORM}Content-Length: 500\r\n\r\nname=ada".encode(), hang_up=True)
        == b""
    )
    assert len(console.recorded) == before

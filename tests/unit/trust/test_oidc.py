"""Signing in at a provider that keeps to the standard and checks PKCE, and at the same one when it lies."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey
from tests.unit.desks.test_people import Browser, World

from wardround.console.door import Door
from wardround.console.elsewhere import COOKIE, WAIT_S
from wardround.console.signing_in import SigningIn
from wardround.errors import LoginRefused, SettingsError, TrustError
from wardround.settings import ConsoleSettings, OidcSettings
from wardround.trust.oidc import BODY_MAX, KEYS_AGAIN_S, Provider, open_provider

BACK = "https://hub.example:7480/login/oidc/done"
NOW_S = 1_774_000_000
HOME_CLAIMS = {"sub": "248289761001", "preferred_username": "jane.doe", "groups": ["staff", "wardround-clinicians"]}


class Op(http.server.ThreadingHTTPServer):
    """An OpenID provider with one client, which checks what it should; `says` changes what it answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.issuer = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = ECKey.generate_key("P-256", {"kid": "one", "use": "sig", "alg": "ES256"}, auto_kid=False)
        self.codes, self.asked = {}, []
        self.claims, self.header, self.says, self.user_info = dict(HOME_CLAIMS), {"alg": "ES256", "kid": "one"}, {}, {}
        self.signs_with = self.key
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def authorize(self, address):
        """What the person does there: the query with which the browser comes back."""
        query = {name: value for name, (value,) in parse_qs(urlsplit(address).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert query["response_type"] == "code"
        assert "openid" in query["scope"]
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        return {"code": code, "state": query["state"]}

    def token(self, nonce):
        claims = {"iss": self.issuer, "aud": "console", "exp": NOW_S + 300, "iat": NOW_S, "nonce": nonce} | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        algorithms = [self.header["alg"]]
        return jwt.encode(self.header, claims, self.signs_with, algorithms=algorithms)


class Answering(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, facts, status=200):
        body = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        op = self.server
        op.asked.append(self.path)
        if self.path in op.says:
            self.answer(*op.says[self.path])
        elif self.path == "/.well-known/openid-configuration":
            names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
            found = {f"{name}_endpoint": f"{op.issuer}/{path}" for name, path in names.items()}
            self.answer(found | {"issuer": op.issuer, "jwks_uri": f"{op.issuer}/keys"} | op.says.get("about", {}))
        elif self.path == "/keys":
            self.answer(KeySet([op.key]).as_dict(private=False))
        else:
            assert self.headers["Authorization"] == "Bearer opaque"
            self.answer(op.user_info)

    def do_POST(self):
        op = self.server
        form = {name: value for name, (value,) in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        if "/token" in op.says:
            self.answer(*op.says["/token"])
            return
        asked = op.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        fits = asked is not None and challenge == asked["code_challenge"] and form["redirect_uri"] == asked["redirect_uri"]
        ours = base64.b64decode(self.headers.get("Authorization", "Basic ").removeprefix("Basic ")) == b"console:s%2Fecret"
        if fits and ours:
            self.answer({"id_token": op.token(asked["nonce"]), "access_token": "opaque", "token_type": "Bearer"})
        else:
            self.answer({"error": "invalid_grant"}, 400)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A slow machine is no provider that is gone."""
    monkeypatch.setattr("wardround.trust.oidc.DEADLINE_S", 120.0)


@pytest.fixture
def op():
    made = Op()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def clock(world):
    world.clock.advance(NOW_S - world.clock.now_us() / 1e6)
    return world.clock


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "hub.sqlite")
    yield made
    made.store.close()


def settings(op, **more):
    roles = {"wardround-admins": "admin", "wardround-clinicians": "clinician"}
    return OidcSettings(**{"issuer": op.issuer, "client_id": "console", "client_secret_file": "secret", "roles": roles} | more)


@pytest.fixture
def provider(op, clock, tmp_path):
    (tmp_path / "secret").write_text("s/ecret\n")
    (tmp_path / "secret").chmod(0o600)
    return Provider(settings(op), tmp_path, clock, back=BACK)


def signed_in(op, provider):
    begun = provider.begin()
    return provider.finish(begun, **op.authorize(begun.address))


def test_who_signs_in_there_has_name_and_role_here(op, provider):
    found = signed_in(op, provider)
    assert (found.name, found.role, found.strong) == ("jane.doe", "clinician", False)
    assert "248289761001" not in found.key
    op.claims |= {"preferred_username": "jane.roe", "groups": "wardround-admins", "amr": ["pwd", "mfa"]}
    again = signed_in(op, provider)
    assert (again.name, again.role, again.strong, again.key) == ("jane.roe", "admin", True, found.key)
    assert op.asked.count("/keys") == 1  # both are kept
    assert op.asked.count("/.well-known/openid-configuration") == 1


LIES = {
    "another nonce": {"nonce": "x"},
    "no nonce": {"nonce": None},
    "for another": {"aud": "shop"},
    "for another too": {"aud": ["console", "shop"]},
    "for another, says azp": {"azp": "shop"},
    "from another": {"iss": "https://elsewhere.example"},
    "of yesterday": {"exp": NOW_S - 3_600},
    "for ever": {"exp": None},
    "of tomorrow": {"iat": NOW_S + 86_400},
    "of nobody": {"sub": None},
    "of a number": {"sub": 7},
    "a name that is none": {"preferred_username": "<script>"},
    "a name of nothing": {"preferred_username": None},
    "no group of ours": {"groups": ["staff"]},
    "no groups": {"groups": None},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_says_something_else_opens_nothing(op, provider, lie):
    op.claims |= LIES[lie]
    op.user_info = {"sub": op.claims["sub"]}
    with pytest.raises(LoginRefused):
        signed_in(op, provider)


def test_a_token_of_another_key_or_of_none_opens_nothing(op, provider):
    for header, key in (
        ({"alg": "ES256", "kid": "one"}, ECKey.generate_key("P-256")),
        ({"alg": "HS256", "kid": "one"}, OctKey.import_key(json.dumps(op.key.as_dict(private=False)))),
        ({"alg": "RS256", "kid": "two"}, RSAKey.generate_key(2048)),
    ):
        op.header, op.signs_with = header, key
        with pytest.raises(LoginRefused, match="does not hold"):
            signed_in(op, provider)
    begun = provider.begin()
    op.authorize(begun.address)
    claims = {"iss": op.issuer, "aud": "console", "exp": NOW_S + 300, "iat": NOW_S, "nonce": begun.nonce} | HOME_CLAIMS
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims)]
    for text in (".".join(parts) + ".", "x", ""):
        op.says["/token"] = ({"id_token": text},)
        with pytest.raises(LoginRefused, match="does not hold"):
            provider.finish(begun, code="c", state=begun.state)


def test_new_keys_of_the_provider_are_read_when_they_come(op, provider, clock):
    signed_in(op, provider)
    op.key = op.signs_with = RSAKey.generate_key(2048, {"kid": "two", "use": "sig", "alg": "RS256"}, auto_kid=False)
    op.header = {"alg": "RS256", "kid": "two"}
    clock.advance(KEYS_AGAIN_S)
    assert signed_in(op, provider).name == "jane.doe"


def test_what_comes_back_belongs_to_the_sign_in_that_began(op, provider):
    begun, other = provider.begin(), provider.begin()
    back = op.authorize(begun.address)
    with pytest.raises(LoginRefused, match="not of this sign-in"):
        provider.finish(other, **back)
    with pytest.raises(LoginRefused, match="400"):  # a code that was stolen is of no use: PKCE
        provider.finish(other, **(back | {"state": other.state}))
    back = op.authorize(begun.address)
    assert provider.finish(begun, **back, issuer=op.issuer).name == "jane.doe"
    with pytest.raises(LoginRefused, match="400"):
        provider.finish(begun, **back)
    with pytest.raises(LoginRefused, match="another provider"):
        provider.finish(begun, **op.authorize(begun.address), issuer="https://elsewhere.example")


def test_claims_may_come_from_the_user_info_of_the_same_account_alone(op, provider, clock, tmp_path):
    op.claims = {"sub": "1", "preferred_username": "jane.doe"}
    op.user_info = {"sub": "1", "preferred_username": "root", "groups": ["wardround-clinicians"]}
    assert signed_in(op, provider).name == "jane.doe"  # what is signed stands
    op.user_info["sub"] = "2"
    with pytest.raises(LoginRefused, match="two accounts"):
        signed_in(op, provider)
    nested = Provider(settings(op, role_claim="realm_access.roles"), tmp_path, clock, back=BACK)
    op.claims |= {"realm_access": {"roles": ["wardround-admins"]}}
    assert signed_in(op, nested).role == "admin"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/.well-known/openid-configuration", ({"issuer": "https://elsewhere.example"},)),
        ("/.well-known/openid-configuration", (b"<html>",)),
        ("/.well-known/openid-configuration", ([],)),
        ("/.well-known/openid-configuration", (b"x", 503)),
        ("about", {"authorization_endpoint": "http://elsewhere.example/"}),
        ("about", {"token_endpoint": "ftp://elsewhere.example/"}),
        ("about", {"authorization_response_iss_parameter_supported": True}),
        ("/token", (b" " * (BODY_MAX + 1),)),
        ("/token", ({"error": "server_error"}, 500)),
        ("/token", (b"[" * 100_000,)),
        ("/keys", ({"keys": 1},)),
        ("/keys", ({"keys": [{"kty": "oct", "k": "A" * 43}]},)),
    ],
)
def test_a_provider_that_answers_nonsense_lets_nobody_in(op, provider, path, answer):
    op.says[path] = answer
    with pytest.raises(LoginRefused):
        signed_in(op, provider)


def test_a_provider_that_is_gone_lets_nobody_in(op, provider):
    op.shutdown()
    op.server_close()
    with socket.socket() as kept:  # so that nobody else listens there now
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(op.server_address)
        with pytest.raises(LoginRefused, match="cannot be reached"):
            provider.begin()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"issuer": "http://idp.example"}, "issuer"),
        ({"issuer": "idp.example"}, "issuer"),
        ({"client_id": ""}, "client_id"),
        ({"scopes": "profile"}, "openid"),
        ({"roles": {}}, "nobody could come in"),
        ({"client_secret_file": "none"}, "cannot be read"),
        ({"client_secret_file": "open"}, "open to others"),
        ({"ca_file": "none"}, "ca_file"),
    ],
)
def test_settings_that_do_not_hold_are_refused_at_the_start(op, clock, tmp_path, wrong, words):
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(SettingsError, match=words):
        Provider(settings(op, **({"client_secret_file": ""} | wrong)), tmp_path, clock, back=BACK)
    with pytest.raises(SettingsError, match="public_url"):
        Provider(settings(op, client_secret_file=""), tmp_path, clock, back="/login/oidc/done")
    with pytest.raises(TrustError, match="root"):
        Provider(settings(op, client_secret_file="", roles={"x": "root"}), tmp_path, clock, back=BACK)
    with pytest.raises(SettingsError, match="nobody could sign in"):
        open_provider(ConsoleSettings(local_sign_in=False), tmp_path, clock, back=BACK)
    assert open_provider(ConsoleSettings(), tmp_path, clock, back="") is None


class Door2:
    """The sign-in pages in front of a provider."""

    def __init__(self, world, provider, *, local=True):
        self.world, app = world, FastAPI()
        app.get("/")(lambda: "inside")
        SigningIn(
            world.people, world.sessions, world.clock, secure=False, place=lambda: ("Test", False), provider=provider, local=local
        ).add_to(app)
        app.add_middleware(Door, sessions=world.sessions)
        self.app, self.browser = app, Browser(app)

    def come(self, op, browser=None):
        browser = browser or self.browser
        away = browser.get("/login/oidc")
        assert away.status_code == 303, away.text
        back = op.authorize(away.headers["location"])
        return browser.get(f"/login/oidc/done?code={back['code']}&state={back['state']}")


def test_a_browser_goes_there_and_comes_back_inside(op, provider, world):
    door = Door2(world, provider)
    assert "Sign in with your hospital account" in door.browser.get("/login").text
    page = door.come(op)
    assert (page.status_code, 'url=/"' in page.text) == (200, True)  # a page of ours goes on: its cookie is sent then
    assert "samesite=strict" in page.headers["set-cookie"].lower()
    assert door.browser.get("/").text == '"inside"'
    assert world.store.person("jane.doe").role == "clinician"
    whats = [(kind, what) for kind, what, *_ in world.entries]
    assert whats == [("change", "role taken from the provider"), ("view", "signed in to the console")]
    assert world.post("/login", door.browser, name="jane.doe", password="").status_code == 403


def test_a_role_that_changes_there_changes_here_and_one_that_ends_lets_nobody_in(op, provider, world):
    door = Door2(world, provider)
    door.come(op)
    op.claims["groups"] = ["wardround-admins"]
    other = Browser(door.app)
    door.come(op, other)
    assert world.store.person("jane.doe").role == "admin"
    world.wait()
    assert door.browser.get("/").status_code == 303  # it stood on the other role
    op.claims["groups"] = []
    assert "has no role here" in door.come(op, Browser(door.app)).text


def test_nobody_takes_over_a_name_that_is_anothers(op, provider, world):
    door = Door2(world, provider)
    op.claims["preferred_username"] = "ada"  # who has a password here
    page = door.come(op)
    assert (page.status_code, "another" in page.text) == (403, True)
    assert world.store.person("ada").role == "operator"
    op.claims["preferred_username"] = "jane.doe"
    assert door.come(op).status_code == 200
    op.claims["sub"] = "another account of this name"
    assert door.come(op, Browser(door.app)).status_code == 403
    assert ("denied", "sign-in refused", "jane.doe") in [entry[:3] for entry in world.entries]


def test_what_came_back_once_or_late_or_elsewhere_opens_nothing(op, provider, world):
    door = Door2(world, provider)
    back = op.authorize(door.browser.get("/login/oidc").headers["location"])
    address = f"/login/oidc/done?code={back['code']}&state={back['state']}"
    assert Browser(door.app).get(address).status_code == 403  # another browser
    assert door.browser.get(address).status_code == 200
    assert Browser(door.app).get("/").status_code == 303
    assert door.browser.get(address).status_code == 403
    late = Browser(door.app)
    back = op.authorize(late.get("/login/oidc").headers["location"])
    assert COOKIE in late.cookies
    world.clock.advance(WAIT_S)
    assert late.get(f"/login/oidc/done?code={back['code']}&state={back['state']}").status_code == 403
    denied = Browser(door.app)
    denied.get("/login/oidc")
    page = denied.get("/login/oidc/done?error=access_denied&error_description=<script>x</script>&state=x")
    assert (page.status_code, "has not let you in" in page.text, "<script>x" in page.text) == (403, True, False)


def test_a_hub_that_wants_a_second_factor_asks_for_it_unless_the_provider_did(op, provider, tmp_path):
    world = World(tmp_path / "strict.sqlite", required=True)
    world.clock.advance(NOW_S - world.clock.now_us() / 1e6)
    door = Door2(world, provider)
    page = door.come(op)
    assert 'url=/login/enrol"' in page.text
    assert "Turn it on" in door.browser.get("/login/enrol").text
    assert door.browser.get("/").status_code == 303
    op.claims["amr"] = ["pwd", "otp"]
    assert 'url=/"' in door.come(op).text
    world.store.close()


def test_passwords_may_be_switched_off(op, provider, world):
    door = Door2(world, provider, local=False)
    page = door.browser.get("/login")
    assert 'name="password"' not in page.text
    assert world.post("/login", door.browser, name="ada", password="right").status_code == 403
    assert door.browser.get("/").status_code == 303
    assert door.come(op).status_code == 200

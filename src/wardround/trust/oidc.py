"""Signing in at an OpenID Connect provider: authorization code flow with PKCE (S256), state and nonce.

Whoever signs in proves it to the provider, which tells the hub by a signed ID token: issuer, audience, signature, times and nonce
are checked, and only algorithms with a public key are taken. Nothing is believed that came through the browser but the code.
Sources: OpenID Connect Core 1.0 section 3.1, RFC 7636 (PKCE), RFC 9207 (issuer in the answer), RFC 9700 (best practice).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from wardround.clock import Clock
from wardround.errors import LoginRefused, SettingsError
from wardround.settings import ConsoleSettings, OidcSettings
from wardround.trust.roles import parse_role

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LEEWAY_S, DEADLINE_S, BODY_MAX = 60, 10.0, 1_000_000
KNOWN_S, KEYS_AGAIN_S = 3_600.0, 10.0  # what the provider says of itself is kept; its keys are read again for an unknown one
AT_ONCE = 8  # calls to the provider; a slow one does not take every thread of the console
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,79}")
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
STRONG = frozenset({"mfa", "otp", "hwk", "swk", "pop", "sc"})  # of RFC 8176: more than a password was shown


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in under way: where the browser goes, and what must come back with it."""

    address: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the provider says it is. `key` is the same for the same account for ever, whatever it is called."""

    name: str
    role: str
    key: str
    strong: bool


class Provider:
    """One provider. Safe to use from several threads; calls wait for the network."""

    def __init__(self, settings: OidcSettings, home: Path, clock: Clock, *, back: str) -> None:
        """`back` is the address to which the provider sends the browser.

        Raises:
            SettingsError: something of the settings does not hold.
        """
        self._settings, self._clock, self._back = settings, clock, back
        self._issuer = settings.issuer
        _check(settings, back)
        self._secret = _secret(home, settings.client_secret_file)
        self._tls = _context(home, settings.ca_file)
        self._lock, self._calls = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)
        self._known: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    @property
    def label(self) -> str:
        """What the button says."""
        return self._settings.label

    def begin(self) -> Begun:
        """A new sign-in.

        Raises:
            LoginRefused: the provider cannot be reached, or is another than the settings say.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._back,
            "scope": self._settings.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        start = self._endpoint("authorization_endpoint")
        return Begun(f"{start}{'&' if urlsplit(start).query else '?'}{urlencode(asked)}", state, nonce, verifier)

    def finish(self, begun: Begun, *, code: str, state: str, issuer: str = "") -> Identity:
        """Who has signed in, by what came back with the browser.

        Raises:
            LoginRefused: it does not hold, or this account has no role here.
        """
        if not hmac.compare_digest(state.encode(), begun.state.encode()) or not code:
            raise _refused("what came back is not of this sign-in")
        says = bool(self._about().get("authorization_response_iss_parameter_supported"))
        if (issuer or says) and issuer != self._issuer:
            raise _refused("another provider has answered")
        answer = self._exchange(code, begun.verifier)
        claims = self._claims(str(answer.get("id_token", "")), begun.nonce)
        if not {self._settings.name_claim, self._settings.role_claim.split(".")[0]} <= claims.keys():
            claims = self._more(claims, str(answer.get("access_token", "")))
        return self._identity(claims)

    # -- what the provider says

    def _about(self) -> dict[str, Any]:
        """What the provider says of itself, kept for an hour."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._known is not None and now_s - self._known[0] < KNOWN_S:
                return self._known[1]
        found = self._call("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self._issuer:
            raise _refused(f"the provider calls itself {str(found.get('issuer'))[:80]!r}: `console.oidc.issuer` must be the same")
        with self._lock:
            self._known = (now_s, found)
        return found

    def _endpoint(self, name: str) -> str:
        address = str(self._about().get(name, ""))
        if not _is_safe(address):
            raise _refused(f"the provider's {name} is no HTTPS address")
        return address

    def _key_set(self, *, again: bool) -> KeySet:
        now_s = self._clock.monotonic_s()
        with self._lock:
            kept = self._keys
        if kept is not None and now_s - kept[0] < (KEYS_AGAIN_S if again else KNOWN_S):
            return kept[1]
        try:
            keys = KeySet.import_key_set(self._call("GET", self._endpoint("jwks_uri")))  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused("the provider's keys cannot be read") from error
        with self._lock:
            self._keys = (now_s, keys)
        return keys

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        own, secret = self._settings.client_id, self._secret
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._back, "code_verifier": verifier}
        ways = self._about().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        headers = {}
        if not secret:
            form["client_id"] = own
        elif "client_secret_basic" in ways:
            pair = f"{quote(own, safe='')}:{quote(secret, safe='')}"  # RFC 6749, section 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": own, "client_secret": secret}
        return self._call("POST", self._endpoint("token_endpoint"), form=form, headers=headers)

    def _claims(self, text: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token that holds."""
        for again in (False, True):  # a key that is not known may be new
            try:
                token = jwt.decode(text, self._key_set(again=again), algorithms=ALGORITHMS)
                break
            except (JoseError, ValueError, TypeError, KeyError) as error:
                if again:
                    raise _refused("the provider's ID token does not hold") from error
        claims = dict(token.claims)
        rules = jwt.JWTClaimsRegistry(
            now=self._clock.now_us() // 1_000_000,
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._settings.client_id},
            nonce={"essential": True, "value": nonce},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            rules.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise _refused(f"the provider's ID token does not hold: {getattr(error, 'claim', '') or 'its claims'}") from error
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        for_us = claims.get("azp", self._settings.client_id) == self._settings.client_id
        if not for_us or (len(audiences) > 1 and "azp" not in claims):
            raise _refused("the provider's ID token is for somebody else")
        return claims

    def _more(self, claims: dict[str, Any], access: str) -> dict[str, Any]:
        """The claims with those that the provider gives at its UserInfo endpoint alone; the ID token's own stand."""
        if not access or "userinfo_endpoint" not in self._about():
            return claims
        found = self._call("GET", self._endpoint("userinfo_endpoint"), headers={"Authorization": f"Bearer {access}"})
        if found.get("sub") != claims["sub"]:
            raise _refused("the provider's answers are of two accounts")
        return found | claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        name = claims.get(self._settings.name_claim)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise _refused(f"the claim {self._settings.name_claim} holds no name that could be one here")
        held = _at(claims, self._settings.role_claim)
        groups = {str(one) for one in (held if isinstance(held, list) else [held])}
        role = next((role for group, role in self._settings.roles.items() if group in groups), None)
        if role is None:
            raise LoginRefused(
                f"{name} has no role here", remedy="the provider puts accounts into groups, and `console.oidc.roles` maps those"
            )
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject:
            raise _refused("the provider's ID token names nobody")
        ways = claims.get("amr")
        strong = isinstance(ways, list) and bool(STRONG & {str(way) for way in ways})
        return Identity(name, role, hashlib.sha256(f"{self._issuer}\0{subject}".encode()).hexdigest(), strong)

    # -- the network

    def _call(
        self, method: str, address: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        if not self._calls.acquire(blocking=False):
            raise LoginRefused("many are signing in just now", remedy="try again in some seconds")
        try:
            with (
                httpx.Client(verify=self._tls, timeout=DEADLINE_S, follow_redirects=False, trust_env=False) as client,
                client.stream(method, address, data=form, headers=dict(headers or {})) as answer,
            ):
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > BODY_MAX:
                        raise _refused("the provider's answer is too large")
                if answer.status_code != httpx.codes.OK:
                    raise _refused(f"the provider has answered {answer.status_code}")
                found = json.loads(body)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise _refused(f"the provider cannot be reached: {type(error).__name__}") from error
        except (ValueError, RecursionError) as error:
            raise _refused("the provider's answer is no JSON") from error
        finally:
            self._calls.release()
        if not isinstance(found, dict):
            raise _refused("the provider's answer is no JSON object")
        return found


def open_provider(settings: ConsoleSettings, home: Path, clock: Clock, *, back: str) -> Provider | None:
    """The provider that the settings name; None for none.

    Raises:
        SettingsError: something does not hold, or nobody could sign in.
    """
    if settings.oidc.issuer:
        return Provider(settings.oidc, home, clock, back=back)
    if not settings.local_sign_in:
        raise SettingsError(
            "hub.toml: nobody could sign in: console.local_sign_in is false, and there is no console.oidc.issuer",
            remedy="name a provider, or let people sign in by password",
        )
    return None


def _refused(words: str) -> LoginRefused:
    return LoginRefused(words, remedy="try again; if it stays so, whoever runs the hub finds the reason in its audit log")


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by names with dots between them for one within another; None where there is none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _is_safe(address: str) -> bool:
    """Whether what is said there is said to the right one and to nobody else."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS))
    except ValueError:
        return False


def _check(settings: OidcSettings, back: str) -> None:
    where = "hub.toml: console.oidc"
    if not _is_safe(settings.issuer):
        raise SettingsError(f"{where}.issuer is no HTTPS address", remedy="give the provider's issuer, as its discovery says it")
    if not settings.client_id:
        raise SettingsError(f"{where}.client_id is empty", remedy="register the console at the provider")
    if not _is_safe(back):
        raise SettingsError(
            "hub.toml: public_url is no HTTPS address", remedy="console.oidc needs the console's own address there"
        )
    if "openid" not in settings.scopes.split():
        raise SettingsError(f"{where}.scopes lacks openid", remedy='write scopes = "openid profile"')
    if not settings.roles:
        raise SettingsError(
            f"{where}.roles is empty: nobody could come in", remedy='write [console.oidc.roles] "a-group" = "viewer"'
        )
    for role in settings.roles.values():
        parse_role(role)


def _secret(home: Path, file: str) -> str:
    if not file:
        return ""
    try:
        found = (home / file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"console.oidc.client_secret_file {file} cannot be read", remedy="give a file of mode 0600"
        ) from error
    if (home / file).stat().st_mode & 0o077:
        raise SettingsError(f"console.oidc.client_secret_file {file} is open to others", remedy=f"chmod 600 {file}")
    return found


def _context(home: Path, file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(home / file) if file else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"console.oidc.ca_file {file} cannot be read", remedy="give a file of certificates (PEM)") from error

"""A hub whose people sign in at a real OpenID Connect provider: there and back as a browser goes, by a role that is mapped."""

from __future__ import annotations

import contextlib
import json
import re
from urllib.parse import urlsplit

import httpx
import pytest
from tests import oidc_provider

JANE = {"sub": "248289761001", "preferred_username": "jane.doe", "groups": ["staff", "wardround-clinicians"]}
JOHN = {"sub": "90125", "preferred_username": "john.roe", "groups": ["staff"]}
MORE = """
local_sign_in = false
[console.oidc]
issuer = "{}"
client_id = "wardround"
client_secret_file = "oidc.secret"
[console.oidc.roles]
"wardround-clinicians" = "clinician"
"""


@pytest.mark.timeout(300)
def test_people_sign_in_at_the_hospitals_provider(site, command):
    with oidc_provider.running(JANE, JOHN) as issuer, contextlib.ExitStack() as opened:
        settings = site.home / "hub.toml"
        text = settings.read_text()
        port = site.ports["console"]
        public = f'public_url = "http://127.0.0.1:{port}"\n'
        settings.write_text(
            public + text.replace(f"[console]\nport = {port}\n", f"[console]\nport = {port}{MORE.format(issuer)}")
        )
        (site.home / "oidc.secret").write_text("anything")
        (site.home / "oidc.secret").chmod(0o600)
        site.sign_in("oncall")
        site.start_hub()

        def signs_in(sub):
            browser = opened.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
            away = browser.get("/login/oidc").headers["location"]
            assert away.startswith(issuer)
            with httpx.Client(timeout=60) as there:
                back = there.post(away, data={"sub": sub}).headers["location"]
            assert urlsplit(back).netloc == f"127.0.0.1:{port}"
            return browser, browser.get(back)

        jane, page = signs_in("248289761001")
        assert 'url=/"' in page.text
        assert jane.get("/").status_code == 200
        assert re.search(r"jane\.doe", jane.get("/account").text)
        john, page = signs_in("90125")
        assert (page.status_code, "has no role here" in page.text) == (403, True)
        assert john.get("/").status_code == 303
        refused = john.post("/login", data={"name": "oncall", "password": "x"})
        assert (refused.status_code, "elsewhere" in refused.text) == (403, True)
        listed = json.loads(command("user", "list", "--home", str(site.home), "--json").stdout)
        assert {(one["name"], one["role"]) for one in listed} == {("oncall", "operator"), ("jane.doe", "clinician")}

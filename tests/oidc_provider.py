"""A real OpenID Connect provider in a process of its own: `oidc-provider-mock`, which is Authlib's server.

Its first line says where it listens; accounts are given as JSON, one an argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def running(*accounts: dict[str, object]) -> Iterator[str]:
    """Its issuer, while it runs. Its libraries warn, and tests take warnings for errors: hence the process."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.oidc_provider", *map(json.dumps, accounts)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serve until killed."""
    from oidc_provider_mock import User, app
    from werkzeug.serving import make_server

    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # it is on this machine alone
    users = [User(sub=str(one.pop("sub")), claims=one) for one in map(json.loads, sys.argv[1:])]
    server = make_server("127.0.0.1", 0, app(require_nonce=True, user_claims=users), threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

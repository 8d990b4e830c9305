"""A worker's life in its container: one Dask worker, reached over the sockets of /link (see relays.py), TLS both ways.

The process ends when its scheduler is gone, or cannot be found for a while: a hub that died leaves no container running.
The hub looks after its workers and starts them anew; nothing here, and nothing in Podman, restarts a worker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from pathlib import Path

import dask
from distributed import Worker
from distributed.security import Security

import wardround.process.work  # noqa: F401 - what a task needs must import: better now, with words, than in a task's stream
from wardround.process.lake import use_options
from wardround.process.relays import STORE, STORE_AUTHORITIES, serve_tcp, serve_unix, to_tcp, to_unix

SCHEDULER_PORT, WORKER_PORT = 8786, 9000  # of the container's own loopback
SCHEDULER_GONE_S = 30


async def live(name: str, contact: str, memory_bytes: int, *, link: Path, certificates: Path) -> None:
    """Serve until the scheduler closes this worker or stays away."""
    dask.config.set(
        {
            "distributed.comm.timeouts.tcp": "12s",
            "distributed.worker.memory.spill": False,
            "distributed.worker.profile.enabled": False,  # see dask_runner.configure
            "distributed.worker.http.routes": [],
        }
    )
    security = Security(
        require_encryption=True,
        tls_ca_file=str(certificates / "ca.pem"),
        tls_worker_cert=str(certificates / "worker.pem"),
        tls_worker_key=str(certificates / "worker.key"),
        tls_min_version=ssl.TLSVersion.TLSv1_3,
    )
    inward = await serve_unix(link / "worker.sock", to_tcp(WORKER_PORT))
    outward = await serve_tcp(SCHEDULER_PORT, to_unix(link / "scheduler.sock"))
    worker = Worker(
        f"tls://127.0.0.1:{SCHEDULER_PORT}",
        name=name,
        nthreads=1,
        host="127.0.0.1",
        port=WORKER_PORT,
        contact_address=contact,
        security=security,
        memory_limit=memory_bytes,
        death_timeout=SCHEDULER_GONE_S,
        local_directory=os.environ.get("DASK_TEMPORARY_DIRECTORY"),
        dashboard=False,
    )
    async with contextlib.AsyncExitStack() as open_:
        await open_.enter_async_context(inward)
        await open_.enter_async_context(outward)
        if store_port := take_store(certificates):
            await open_.enter_async_context(await serve_tcp(store_port, to_unix(link / "store.sock")))
        await open_.enter_async_context(worker)
        await worker.finished()


def take_store(certificates: Path) -> int:
    """Use the object store that the hub's file names, with its keys; the port at which it expects to find it, 0 for none."""
    file, authorities = certificates / STORE, certificates / STORE_AUTHORITIES
    if not file.exists() or not (text := file.read_bytes()):
        return 0
    told = json.loads(text)
    if authorities.exists() and authorities.stat().st_size:
        os.environ["SSL_CERT_FILE"] = str(authorities)
    use_options(told["options"])
    return int(told["port"])


def main() -> None:
    """The container's entry point."""
    parser = argparse.ArgumentParser(prog="wardround-worker", description="One worker of a Wardround hub, in a container.")
    parser.add_argument("--name", required=True, help="the worker's name")
    parser.add_argument("--contact", required=True, help="the address at which the hub reaches it")
    parser.add_argument("--memory", type=int, required=True, help="bytes it may use")
    parser.add_argument("--link", type=Path, default=Path("/link"), help="the folder of the sockets")
    parser.add_argument(
        "--certificates", type=Path, default=Path("/certs"), help="ca.pem, worker.pem, worker.key, and those of an object store"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as process 1 it would be ignored
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        asyncio.run(live(given.name, given.contact, given.memory, link=given.link, certificates=given.certificates))
    sys.exit(0)


if __name__ == "__main__":
    main()

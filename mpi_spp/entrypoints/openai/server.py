"""A server that runs in a thread of rank 0, while the main thread computes with all ranks."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from mpi_spp.errors import UserError

_LAST_SECONDS = 5  # for clients to read what they were sent
_WAITING_CONNECTIONS = 2048


def bind(host: str, port: int) -> socket.socket:
    """An open socket; port 0 takes a free one. Raises UserError where that cannot be."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host: {host} is no address of this machine ({error}); give 127.0.0.1") from None
    opened = socket.socket(family, kind, number)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_WAITING_CONNECTIONS)
    except OSError as error:
        opened.close()
        why = error.strerror or str(error)
        raise UserError(f"--port: cannot listen at {host} port {port} ({why}); give another one") from None
    return opened


def address_of(opened: socket.socket) -> str:
    """As a URL."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def serving(app: FastAPI, opened: socket.socket) -> Iterator[None]:
    """Answer at this socket while the body runs; who is still reading then may do so for some seconds."""
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=_LAST_SECONDS, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, name="HTTP", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_LAST_SECONDS + 1)

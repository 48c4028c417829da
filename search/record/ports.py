"""Servers on this machine: a port to listen on, and whether somebody answers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from spaces.errors import StorageError


def free_port(port: int) -> int:
    """A port of this machine that can be listened on; 0 takes any.

    Raises:
        StorageError: If it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StorageError(f"port {port} must be free, but is not ({error.strerror}): use --port 0") from None
        return int(probe.getsockname()[1])


def answers(server: str) -> bool:
    """Whether MLflow answers at an address, within two seconds."""
    try:
        with urllib.request.urlopen(f"{server.rstrip('/')}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False

"""An application on a port: behind TLS where others can reach it, on this machine alone where nothing is said."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from spaces.errors import RequestError, StorageError

#: As ASGI has it: called with a scope, and with how to receive and to send.
Application = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Args:
        host: A name or a number of this machine.
        port: 0 takes a free one.
        certificate: The certificate's file, in PEM; None for no TLS.
        key: The file of its private key.
        insecure: Whether others may reach it without TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    @property
    def secure(self) -> bool:
        """Whether it is behind TLS."""
        return self.certificate is not None

    def check(self) -> None:
        """Refuse what would send tokens in clear, and what cannot work.

        Raises:
            RequestError: If others can reach it without TLS, or a flag lacks the other.
            StorageError: If the certificate or the key cannot be used.
        """
        if (self.certificate is None) != (self.key is None):
            raise RequestError("TLS takes --certificate and --key, but only one of them is given: give both")
        if self.certificate is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise StorageError(
                    f"{self.certificate} and {self.key} must be a certificate and its key in PEM, but cannot be used "
                    f"({error.strerror or error}): check them"
                ) from None
        elif not self.insecure and not is_loopback(self.host):
            raise RequestError(
                f"tokens must not be sent in clear, but others can reach {self.host!r} without TLS: give --certificate "
                "and --key, or --insecure where something in front of it does that"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there; a name counts if all its numbers do.

    Raises:
        RequestError: If it is no name or number.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None)
    except (OSError, UnicodeError) as error:
        raise RequestError(f"--host must be this machine's, but is {host!r} ({error}): use 127.0.0.1") from None
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def run(app: Application, address: Address, *, ready: Callable[[str], None], connections: int | None = None) -> None:
    """Serve until a signal ends it.

    Args:
        app: The application.
        address: Where to listen.
        ready: Called with the address once requests are answered.
        connections: The most at once.

    Raises:
        RequestError: As `Address.check`.
        StorageError: As `Address.check`, or if the port is taken.
    """
    address.check()
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        loop="asyncio",  # the same on every machine, also where a faster one happens to be installed
        http="h11",
        limit_concurrency=connections,
        timeout_graceful_shutdown=5,
        ws="none",
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    listening = _listening(address)
    port = listening.getsockname()[1]
    host = f"[{address.host}]" if ":" in address.host else address.host
    server = _Server(config, lambda: ready(f"{'https' if address.secure else 'http'}://{host}:{port}"))
    with listening:
        server.run(sockets=[listening])


def _listening(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
    except OSError as error:
        found.close()
        raise StorageError(
            f"port {address.port} of {address.host} must be free, but is not ({error.strerror}): use --port 0"
        ) from None
    return found


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

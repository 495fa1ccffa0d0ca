"""The gRPC server of a worker: every worker listens on the same port, and the kernel spreads connections over them.

The surprise: there is no shared socket as for HTTP. gRPC opens its own, with SO_REUSEPORT, so a worker that ends takes
its connections along; it tells callers to connect anew (GOAWAY) and finishes what they asked.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.errors import ConfigError, MissingExtra, Unavailable

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["GrpcServer", "require_grpc", "reserve"]


_AT_ONCE = 1024  # calls under way in one worker; each may hold a message of the largest size


class GrpcServer:
    """Serve a gateway over gRPC.

    Args:
        gateway: What answers.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        tls: PEM files of certificate (chain) and key; None for plain text.
    """

    def __init__(self, gateway: Gateway, *, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
        self._gateway = gateway
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._tls = tls
        self._server: Any = None

    async def start(self) -> int:
        """Listen and return the port.

        Raises:
            MissingExtra: grpcio or protobuf is not installed.
            ConfigError: a TLS file is missing or unreadable.
            Unavailable: the port is taken.
        """
        require_grpc()
        import grpc

        from flyball.serving.grpc import Service

        limit = self._gateway.max_body
        server = grpc.aio.server(options=[
            ("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 32_768),
        ], maximum_concurrent_rpcs=_AT_ONCE)  # fmt: skip
        server.add_generic_rpc_handlers((Service(self._gateway).handler,))
        try:
            if self._tls is None:
                port = server.add_insecure_port(self._address)
            else:
                port = server.add_secure_port(self._address, grpc.ssl_server_credentials([_pair(*self._tls)]))
        except RuntimeError as error:
            raise Unavailable(
                f"gRPC cannot listen on {self._address}; set server.grpc_port to a free port, or 0 for none"
            ) from error
        await server.start()
        self._server = server
        return int(port)

    async def stop(self, grace: float) -> None:
        """Take no new calls, let those at hand finish for at most `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)


def require_grpc() -> None:
    """Raise MissingExtra unless the extra `grpc` is installed."""
    from importlib.util import find_spec

    for name in ("grpc", "google.protobuf"):
        try:
            there = find_spec(name) is not None
        except ModuleNotFoundError:  # of the parent package
            there = False
        if not there:
            raise MissingExtra.of("gRPC (server.grpc_port)", "grpc")


def reserve(host: str, port: int) -> socket.socket:
    """Hold the port for the workers without listening on it, so that a port in use is told once, before they start.

    Raises:
        MissingExtra: gRPC is not installed.
        Unavailable: the port is taken.
    """
    require_grpc()
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        held.close()
        raise Unavailable(
            f"port {port} of {host} is taken ({error.strerror}); set server.grpc_port to a free port, or 0 for no gRPC"
        ) from error
    return held


def _pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    try:
        return key.read_bytes(), certificate.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"gRPC cannot serve TLS with {certificate.name!r} and {key.name!r}: {error.strerror}"
        ) from error

"""What ``--address`` names, whether anything answers there, what is free. Imports no Ray."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from urllib.parse import urlsplit

from orchestrator.errors import UserError

LOCKED = (
    "the cluster at {address} wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the "
    "file ~/.ray/auth_token to the token that it was started with"
)
_TIMEOUT_S = 5
_PORTS = {"http": 80, "https": 443, "ray": 10001}
_FORMS = (
    "auto (the cluster of this machine), HOST:PORT of a Ray head, http(s)://HOST:8265 (the "
    "dashboard that takes jobs), or ray://HOST:10001 (Ray Client, by which jobs get there too)"
)


def takes_jobs(address: str | None) -> bool:
    """Whether an address leads to a job server: a Ray dashboard, or Ray Client's way to it."""
    return address is not None and address.startswith(("http://", "https://", "ray://"))


def is_ray_client(address: str | None) -> bool:
    """Whether an address is Ray Client's."""
    return address is not None and address.startswith("ray://")


def is_own(address: str | None) -> bool:
    """Whether an address asks for a Ray of our own, on this machine alone."""
    return address in {None, "local"}


def close_own_ray() -> None:
    """Have a Ray of our own listen on loopback only, and to nobody without a token.

    To be called before Ray is imported. By itself it listens on every interface, and runs code
    for whoever comes. The switch is named after the systems on which it does not.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check_address(address: str | None) -> None:
    """Check an address as far as that takes seconds: its form, and whether something answers.

    Args:
        address: ``None`` or ``local``: this machine alone.

    Raises:
        UserError: no such address, or nothing answers there.
    """
    if address in {None, "local", "auto"}:
        return
    assert address is not None
    host, port = host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the latter of names that no host can have
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"--address {address}: nothing answers at {host} port {port} ({reason}); is the "
            "cluster up, and is there a way (a tunnel) to that port?"
        ) from None


def check_free(host: str, port: int) -> None:
    """Check that a server of this machine can listen on an address.

    Raises:
        UserError: the port is taken or not ours, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            is_port = error.errno in {errno.EADDRINUSE, errno.EACCES}
            hint = "another with --port" if is_port else "an address of this machine with --host"
            raise UserError(
                f"cannot listen on {host} port {port} ({error.strerror or error}); choose {hint}"
            ) from None


def host_and_port(address: str) -> tuple[str, int]:
    """Return the host (IPv6 without brackets) and the port that an address names.

    Raises:
        UserError: no such address.
    """
    try:
        url = urlsplit(address if takes_jobs(address) else f"tcp://{address}")
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:  # a port out of range, half an IPv6 address
        url, port = urlsplit(""), None
    if not url.hostname or not port or url.path.strip("/") or not re.fullmatch(r"\S+", address):
        raise UserError(f"--address {address!r} is no address; it may be {_FORMS}")
    if url.username or url.password:
        raise UserError("--address must not hold credentials; Ray's token is RAY_AUTH_TOKEN")
    return url.hostname, port

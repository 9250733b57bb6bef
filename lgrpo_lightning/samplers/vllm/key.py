"""The key of a server: the variable that the user sets, else a file in the home directory that `lgrpo serve` writes."""

from __future__ import annotations

import os
import secrets
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

KEY = "VLLM_API_KEY"


def locate_key(port: int) -> Path:
    """Where the key of the server on ``port`` of this machine is kept, for this user alone."""
    return Path.home() / ".lgrpo" / f"server-{port}.key"


def make_key(port: int) -> str:
    """A new key, left in ``locate_key(port)`` with mode 600 for the runs of this user on this machine."""
    path, key = locate_key(port), secrets.token_urlsafe(24)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)  # a file that is there may be open to others, or a link
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key)
    return key


def find_key(url: str, variable: str = KEY) -> str | None:
    """The key for the server at ``url``: ``variable``, else for a server of this machine its file; or None."""
    if key := os.environ.get(variable):
        return key
    address = urlsplit(url)
    path = locate_key(address.port or 80)
    return path.read_text() if is_loopback(address.hostname or "") and path.is_file() else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Talking to one vLLM server: JSON over HTTP, with time-outs and errors that name it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lgrpo_lightning.samplers.vllm.key import find_key
from lgrpo_lightning.samplers.vllm.options import ServerOptions, is_address
from lgrpo_lightning.samplers.vllm.transport import VLLMError

LOST = (ConnectionError, http.client.HTTPException)
RELOAD = "lgrpo serve --config YOUR_CONFIG"


def locate(place: str) -> Path:
    """The file of ``file:PATH``.

    >>> str(locate("file:runs/address")), str(locate("file:///runs/address"))
    ('runs/address', '/runs/address')
    """
    return Path(place.removeprefix("file:").replace("///", "/", 1)).expanduser()


class ServerLostError(VLLMError):
    """The server does not answer; it may come back."""


class ServerSlowError(VLLMError):
    """The server took longer than ``request_seconds``."""


class RefusedError(VLLMError):
    """The server answered with an error of its own; it will again."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Server:
    """One server, at ``http://host:port``, or where the file of ``file:PATH`` says it is now."""

    def __init__(self, place: str, options: ServerOptions) -> None:
        self.place = place.rstrip("/")
        self.options = options

    @property
    def url(self) -> str:
        """Its address.

        Raises:
            ServerLostError: The file has none; the server may be about to write it.
        """
        if not self.place.startswith("file:"):
            return self.place
        url, _ = self._read_file()
        if not url:
            raise ServerLostError(f"{self.peer} has not written its address there.")
        return url

    @property
    def peer(self) -> str:
        """What messages call it."""
        found = f" ({self._read_file()[1]})" if self.place.startswith("file:") else ""
        return f"The vLLM server {self.place}{found}"

    def _read_file(self) -> tuple[str, str]:
        """(the address, empty where there is none; what messages say of the file)."""
        try:
            text = locate(self.place).read_text(errors="replace").strip()
        except FileNotFoundError:
            return "", "there is no such file"
        except OSError as error:  # such as a stale handle of a network file system
            return "", f"the file cannot be read: {error.strerror}"
        if not is_address(text):
            return "", f"the file contains {text[:100]!r}, not an address like http://127.0.0.1:8000"
        return text.rstrip("/"), text

    def post(self, path: str, body: Any = None) -> Any:
        """The answer to ``POST path``.

        Raises:
            ServerLostError: No connection, it broke off, or the server is starting or dying.
            VLLMError: The server refused the request or took too long.
        """
        try:
            return self._call(path, json.dumps(body or {}).encode(), self.options.request_seconds)
        except RefusedError as error:
            if error.status >= 500 and not self.is_alive():  # its engine has died, and it is about to follow
                raise ServerLostError(str(error)) from error
            raise

    def get(self, path: str) -> Any:
        """The answer to ``GET path``; errors as with ``post``."""
        return self._call(path, None, self.options.request_seconds)

    def call_worker(self, method: str, *args: Any) -> Any:
        """Call a method of the worker extension; what the first worker returns."""
        try:
            answer = self.post("/collective_rpc", {"method": method, "args": list(args)})
        except RefusedError as error:
            if error.status in (404, 405):
                raise VLLMError(
                    f"{self.peer} cannot take over weights: it was not started for it. Start it with `{RELOAD}`, "
                    "which sets VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls."
                ) from error
            raise
        return (answer.get("results") or [None])[0] if isinstance(answer, dict) else None

    def is_alive(self) -> bool:
        """Whether it answers that it is healthy; an error where it refuses the key."""
        try:
            self._call("/health", None, min(10.0, self.options.request_seconds))
        except (ServerLostError, ServerSlowError, RefusedError):
            return False
        return True

    def wait(self, since: float, *, between: Callable[[], None] = lambda: None) -> None:
        """Wait until it is healthy, asking again at growing intervals, up to ``retry_seconds``.

        Args:
            since: ``time.monotonic()`` when it was first missed.
            between: Called each time before it is asked; what it raises ends the wait.
        """
        pause = 0.25
        while not self.is_alive():
            between()
            left = since + self.options.retry_seconds - time.monotonic()
            if left <= 0:
                raise VLLMError(
                    f"{self.peer} did not answer for {self.options.retry_seconds:g} seconds "
                    f"(sampler.server.retry_seconds). Look at its log and start it again: `{RELOAD}`; a run goes on "
                    "from its last checkpoint with --ckpt_path last."
                )
            time.sleep(min(pause, left))
            pause = min(2 * pause, 8.0)

    def _call(self, path: str, body: bytes | None, seconds: float) -> Any:
        headers, url = {"Content-Type": "application/json"}, self.url
        if key := find_key(url, self.options.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        try:
            with urlopen(Request(url + path, body, headers), timeout=seconds) as answer:
                text, kind = answer.read().decode(), answer.headers.get_content_type()
        except HTTPError as error:
            raise self._explain_refusal(path, error) from error
        except (URLError, OSError, *LOST) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ServerSlowError(
                    f"{self.peer} did not answer {path} within {seconds:g} seconds. It hangs, or has too much to "
                    "do: raise sampler.server.request_seconds, add servers to sampler.server.urls, or start the "
                    f"server again: `{RELOAD}`."
                ) from error
            raise ServerLostError(f"{self.peer} broke off at {path} ({type(reason).__name__}: {reason}).") from error
        return json.loads(text) if text and kind == "application/json" else text or None

    def _explain_refusal(self, path: str, error: HTTPError) -> VLLMError:
        text = error.read().decode(errors="replace")[:2000]
        if error.code in (502, 503, 504):
            return ServerLostError(f"{self.peer} answered {path} with {error.code}: {text}")
        if error.code == 401:
            return VLLMError(
                f"{self.peer} refused the API key. Set the environment variable {self.options.api_key_env} to the key "
                "that the server was started with: its VLLM_API_KEY, or the key in the file that `lgrpo serve` named."
            )
        return RefusedError(f"{self.peer} answered {path} with {error.code}: {text}", error.code)

"""What a server lets in: requests with its key, from no web page, to the paths and methods that a run uses."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.samplers.vllm.key import KEY, is_loopback

OPEN = "/health"
PATHS = {
    OPEN, "/version", "/metrics", "/v1/models", "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
    "/collective_rpc", "/reset_prefix_cache", "/sleep", "/wake_up", "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update",
    "/update_weight_version", "/weight_info", "/get_world_size",
}  # fmt: skip
METHODS = ("lgrpo_describe",)
LOOPBACK_ONLY = "LGRPO_LOOPBACK_ONLY"


class Gate:
    """ASGI middleware (``--middleware``) in front of vLLM's server; its options are environment variables.

    vLLM's own check of the key leaves out /collective_rpc, which calls any method of the worker.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.key = os.environ.get(KEY, "")
        self.loopback_only = os.environ.get(LOOPBACK_ONLY) == "1"
        if not self.key:
            raise UserError(f"{KEY} is not set. Start the server with `lgrpo serve`, which makes a key.")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] == "http":
            body = await _read_body(receive) if scope["path"] == "/collective_rpc" else None
            if refusal := self._refuse(scope, body):
                await _answer(send, *refusal)
                return
            await self.app(scope, receive if body is None else _replay(body, receive), send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:  # a run opens no web sockets
            await send({"type": "websocket.close", "code": 1008})

    def _refuse(self, scope: Any, body: bytes | None) -> tuple[int, str] | None:
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if "origin" in headers:
            return 403, "requests of web pages are refused"
        if self.loopback_only and not is_loopback(urlsplit("//" + headers.get("host", "")).hostname or ""):
            return 421, "the header Host does not name this machine"
        if scope["path"] == OPEN:
            return None
        authorization = headers.get("authorization", "")
        # takes as long for a wrong first letter as for a wrong last one
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self.key}".encode()):
            return 401, "wrong or missing API key"
        if scope["path"] not in PATHS:
            return 403, f"{scope['path']} is not among the paths that a run uses"
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0] != "application/json":
            return 415, "the content type is not application/json"
        if body is not None and (method := _read_method(body)) not in METHODS:
            return 403, f"the method {method!r} is not among {', '.join(sorted(METHODS))}"
        return None


def _read_method(body: bytes) -> Any:
    try:
        request = json.loads(body)
    except ValueError:
        return None
    return request.get("method") if isinstance(request, Mapping) else None


async def _read_body(receive: Any, limit: int = 2**20) -> bytes:
    body, more = b"", True
    while more and len(body) < limit:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Any) -> Any:
    """``receive`` whose first message is the body that was read."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Any:
        return next(messages, None) or await receive()

    return receive_again


async def _answer(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})

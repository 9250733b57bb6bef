"""What a server lets in."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from lgrpo_lightning.samplers.vllm.gate import LOOPBACK_ONLY, Gate
from tests.samplers.vllm.engines import KEY, RealServer, make_model, needs_vllm

OWN = {"authorization": f"Bearer {KEY}", "host": "127.0.0.1:8000", "content-type": "application/json"}
SHUTDOWN, DESCRIBE = b'{"method": "shutdown"}', b'{"method": "lgrpo_describe"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv(LOOPBACK_ONLY, "1")


def ask(path: str, body: bytes = b"{}", *, method: str = "POST", **headers: str | None) -> Any:
    """The status of the answer, or the body that came through."""
    given = {k: v for k, v in (OWN | {k.replace("_", "-"): v for k, v in headers.items()}).items() if v is not None}
    sent: list[Any] = []
    halves = iter([(body[:7], True), (body[7:], False)])
    came: list[bytes] = []

    async def receive() -> Any:
        part, more = next(halves)
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            came.append(message["body"])
            more = message["more_body"]

    pairs = [(k.encode(), v.encode()) for k, v in given.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": pairs}
    asyncio.run(Gate(app)(scope, receive, send))
    return b"".join(came) if came else sent[0]["status"]


@pytest.mark.parametrize("path", ["/v1/completions", "/reset_prefix_cache", "/sleep", "/v1/load_lora_adapter"])
def test_a_run_comes_through(path: str) -> None:
    assert ask(path, b'{"prompt": [1]}') == b'{"prompt": [1]}'
    assert ask("/collective_rpc", DESCRIBE) == DESCRIBE
    assert ask("/health", b"", method="GET", authorization=None, content_type=None) == b""


@pytest.mark.parametrize(
    ("status", "path", "body", "headers"),
    [
        (401, "/v1/completions", b"{}", {"authorization": None}),
        (401, "/v1/completions", b"{}", {"authorization": "Bearer other"}),
        (401, "/v1/completions", b"{}", {"authorization": "Bearer \u00e9"}),
        (401, "/collective_rpc", SHUTDOWN, {"authorization": None}),
        (403, "/collective_rpc", DESCRIBE, {"origin": "http://evil.example"}),
        (403, "/health", b"", {"origin": "null"}),
        (421, "/collective_rpc", DESCRIBE, {"host": "evil.example:8000"}),
        (421, "/collective_rpc", DESCRIBE, {"host": None}),
        (415, "/collective_rpc", DESCRIBE, {"content_type": "text/plain"}),
        (415, "/v1/load_lora_adapter", b"{}", {"content_type": None}),
        (403, "/collective_rpc", SHUTDOWN, {}),
        (403, "/collective_rpc", b'{"method": "save_sharded_state", "args": ["/tmp/x"]}', {}),
        (403, "/collective_rpc", b'{"method": ["lgrpo_describe"]}', {}),
        (403, "/collective_rpc", b"[]", {}),
        (403, "/collective_rpc", b"not JSON", {}),
        (403, "/collective_rpc/", DESCRIBE, {}),
        (403, "/collective_rpc", b'{"method": "update_weights"}', {}),
        (401, "/update_weights", b"{}", {"authorization": None}),
        (403, "/server_info", b"{}", {}),
        (403, "/v1/chat/completions", b"{}", {}),
    ],
)
def test_refused(status: int, path: str, body: bytes, headers: dict[str, str | None]) -> None:
    assert ask(path, body, **headers) == status


def test_other_machines_may_use_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOOPBACK_ONLY, "0")
    assert ask("/collective_rpc", DESCRIBE, host="node-7:8000") == DESCRIBE


def test_web_sockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(None)({"type": "websocket", "path": "/v1/realtime", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(ValueError, match="VLLM_API_KEY is not set"):
        Gate(None)


@needs_vllm
def test_attacks_on_a_real_server(tmp_path: Path) -> None:
    """A web page's request, and every method that is not a run's, leave the server as it was."""
    make_model("llama_tied", tmp_path / "model")
    server = RealServer(tmp_path / "model", tmp_path).start()

    def status(body: bytes, **headers: str) -> int:
        made = {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            with urlopen(Request(server.url + "/collective_rpc", body, made), timeout=20) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    own = {"authorization": f"Bearer {KEY}", "content_type": "application/json"}
    written = tmp_path / "stolen"
    try:
        assert status(DESCRIBE, **own) == 200
        assert status(SHUTDOWN, content_type="text/plain", origin="http://evil.example") == 403
        assert status(SHUTDOWN, content_type="text/plain") == 401
        assert status(SHUTDOWN, **own) == 403
        assert status(json.dumps({"method": "save_sharded_state", "args": [str(written)]}).encode(), **own) == 403
        assert status(DESCRIBE, **own, host="evil.example") == 421
        assert not written.exists()
        assert status(DESCRIBE, **own) == 200
    finally:
        server.kill()

"""Opens a page in headless Chromium and says what happens: through its debugging pipe, without a driver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")


@dataclass
class Opened:
    """What was seen of a page.

    Attributes:
        requests: Addresses it asked for beside its own.
        errors: What the console holds, exceptions included.
        overflow: Pixels by which it is wider than the window.
        text: Its visible text.
        scripts: Elements that would run something.
    """

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    overflow: int = 0
    text: str = ""
    scripts: int = 0


class Browser:
    """A browser at the other end of two pipes."""

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive = send, receive
        self.number, self.rest = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Until the event has come."""
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            chunk = os.read(self.receive, 1 << 16)
            assert chunk, "the browser has closed"
            self.rest += chunk
        text, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    assert CHROMIUM
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def pipes() -> None:  # the browser reads from descriptor 3 and writes to 4
        first, second = os.dup(to_read), os.dup(from_write)
        os.dup2(first, 3)
        os.dup2(second, 4)

    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-pipe",
    ]
    process = subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"],
        preexec_fn=pipes,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(to_write, from_read)
    finally:
        process.kill()
        process.wait()
        os.close(to_write)
        os.close(from_read)


def opened(page: Path, *, width: int = 1280, dark: bool = False, picture: Path | None = None) -> Opened:
    """Open a file in a window so wide, in light or dark; what is seen."""
    with browser() as chrome:
        target = chrome.call("Target.createTarget", url="about:blank")["targetId"]
        session = chrome.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            chrome.call(f"{domain}.enable", session)
        chrome.call(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chrome.call("Emulation.setEmulatedMedia", session, features=[scheme])
        address = page.resolve().as_uri()
        chrome.call("Page.navigate", session, url=address)
        chrome.wait_for("Page.loadEventFired")
        seen = Opened(
            overflow=_value(chrome, session, "document.documentElement.scrollWidth - window.innerWidth"),
            text=_value(chrome, session, "document.body.innerText"),
            scripts=_value(
                chrome,
                session,
                "document.querySelectorAll('script, iframe, object, [onerror], [onload]').length",
            ),
        )
        if picture is not None:
            shot = chrome.call("Page.captureScreenshot", session, captureBeyondViewport=True, **_whole(chrome, session))
            picture.write_bytes(base64.b64decode(shot["data"]))
        for event in chrome.events:
            _note(seen, event, address)
        return seen


def _value(chrome: Browser, session: str, expression: str) -> Any:
    return chrome.call("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"]["value"]


def _whole(chrome: Browser, session: str) -> dict[str, Any]:
    size = chrome.call("Page.getLayoutMetrics", session)["cssContentSize"]
    return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}}


def _note(seen: Opened, event: dict[str, Any], address: str) -> None:
    method, parameters = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent" and (url := parameters["request"]["url"]) != address:
        if not url.startswith("data:"):
            seen.requests.append(url)
    elif method == "Runtime.exceptionThrown":
        seen.errors.append(str(parameters["exceptionDetails"]))
    elif method == "Runtime.consoleAPICalled":
        seen.errors.append(str(parameters["args"]))
    elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
        seen.errors.append(parameters["entry"]["text"])

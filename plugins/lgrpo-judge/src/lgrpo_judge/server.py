"""Judgements of an OpenAI-compatible chat server: asked for concurrently, and again where that may help."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from lgrpo_judge.answers import Judgement, read_judgement
from lgrpo_lightning.errors import UserError, require

PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a completion is asked about again; doubled each time."""


class FailedError(Exception):
    """One request gave no judgement."""

    def __init__(self, why: str, *, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(why)
        self.status, self.wait = status, wait

    @property
    def final(self) -> bool:
        """Whether the same request would be refused again."""
        return 300 <= self.status < 500 and self.status not in (408, 409, 425, 429)


@dataclass(kw_only=True)
class ChatServer:
    """One server; the arguments are options of ``JudgeReward``.

    Raises:
        ValueError: One is out of range.
    """

    url: str
    key_variable: str | None
    request: Mapping[str, Any]
    low: float
    high: float
    concurrency: int
    timeout: float
    retries: int
    retry_seconds: float
    has_schema: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise UserError(  # the value may be the key
                "JudgeReward: key_variable must be the name of an environment variable, such as OPENAI_API_KEY, and "
                "not the key itself."
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise UserError(
                f"JudgeReward: url is to look like https://{parts.hostname or 'api.openai.com'}/v1, without user, "
                "password or query; the key is in the environment variable that key_variable names."
            )
        require(
            "JudgeReward: ",
            vars(self),
            (-math.inf < self.low < self.high < math.inf, "low", f"below high, {self.high:g}"),
            (self.concurrency >= 1, "concurrency", "at least 1"),
            (self.timeout > 0, "timeout", "a number of seconds above 0"),
            (self.retries >= 0, "retries", "at least 0"),
            (self.retry_seconds >= 0, "retry_seconds", "at least 0"),
        )

    def read_key(self) -> str:
        """The API key; empty: none is needed."""
        if self.key_variable and not os.environ.get(self.key_variable):
            raise UserError(
                f"JudgeReward: key_variable is {self.key_variable!r}, and there is no such environment variable. "
                f"Set it where the run is started: export {self.key_variable}=..."
            )
        return os.environ[self.key_variable] if self.key_variable else ""

    async def judge_all(self, texts: Mapping[str, str], keep: Callable[[str, Judgement], None]) -> dict[str, Judgement]:
        """Key → judgement for every key → text; ``keep`` is called with each as soon as it has a score."""
        key = self.read_key()
        gate = asyncio.Semaphore(self.concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limit, parts = aiohttp.ClientTimeout(total=self.timeout), urlsplit(self.url)
        # not trust_env, which takes credentials of ~/.netrc, too
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        async with aiohttp.ClientSession(headers=headers, timeout=limit, proxy=proxy) as session:

            async def judge(name: str, text: str) -> Judgement:
                async with gate:  # held while it pauses, so that a busy server is asked less
                    judgement = await self._judge(session, key, text)
                if judgement.score is not None:
                    keep(name, judgement)
                return judgement

            judged = await asyncio.gather(*(judge(name, text) for name, text in texts.items()))
        return dict(zip(texts, judged, strict=True))

    async def _judge(self, session: aiohttp.ClientSession, key: str, text: str) -> Judgement:
        """The judgement; after all tries one without a score, which says why."""
        until, failures, pause = time.monotonic() + self.retry_seconds, 0, PAUSE
        while True:
            try:
                return self._read(await self._ask(session, key, text))
            except FailedError as error:
                failures += error.status != 429  # it is only busy
                wait = error.wait or pause
                if error.final or failures > self.retries or time.monotonic() + wait > until:
                    return Judgement(score=None, reason=str(error), status=error.status)
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _ask(self, session: aiohttp.ClientSession, key: str, text: str) -> str:
        """The body of the server's answer."""
        body = {**self.request, "messages": [{"role": "user", "content": text}]}
        if self.has_schema:
            body["response_format"] = _make_schema(self.low, self.high)
        status, wait, answer = await self._post(session, key, body)
        if status in (400, 422) and body.pop("response_format", None):  # a server may not know it
            status, wait, answer = await self._post(session, key, body)
            self.has_schema = self.has_schema and status != 200
        if status != 200:
            raise FailedError(f"the server answered {status}: {answer[:500]}", status=status, wait=wait)
        return answer

    async def _post(self, session: aiohttp.ClientSession, key: str, body: Mapping[str, Any]) -> tuple[int, float, str]:
        """(status, seconds after which the server wants to be asked again, text)."""
        try:
            async with session.post(f"{self.url}/chat/completions", json=body, allow_redirects=False) as answer:
                text = (await answer.read()).decode(errors="replace")
                wait = answer.headers.get("Retry-After", "")  # as a date it is rare, and counts as none
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"{type(error).__name__}: {error}" if str(error) else f"no answer within {self.timeout:g} seconds"
            raise FailedError(why) from error
        seconds = float(wait) if re.fullmatch(r"\d+(\.\d*)?", wait) else 0.0
        return answer.status, seconds, text.replace(key, "***") if key else text

    def _read(self, answer: str) -> Judgement:
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise FailedError(f"the server's answer is no chat completion: {answer[:200]!r}") from error
        try:
            return read_judgement(content or "", self.low, self.high)
        except (ValueError, RecursionError) as error:
            raise FailedError(str(error)) from error


def _make_schema(low: float, high: float) -> dict[str, Any]:
    """``response_format`` with a reason, which comes first so that the score follows from it, and a score."""
    properties = {"reason": {"type": "string"}, "score": {"type": "number", "minimum": low, "maximum": high}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}

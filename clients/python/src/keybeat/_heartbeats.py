"""Heartbeats: by HTTP through the daemon, or with the caller's own redis-py straight into Redis."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import ssl as tls
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import quote

from ._types import KeybeatError, Token
from ._watches import is_name

log = logging.getLogger("keybeat")

#: How long one request may take.
REQUEST_S = 5.0


class RedisClient(Protocol):
    """A client of redis-py: ``redis.Redis``, ``redis.asyncio.Redis``, or one of a cluster."""

    def set(self, name: Any, value: Any, *, px: Any = ...) -> Any: ...
    def delete(self, *names: Any) -> Any: ...


class _Sender(Protocol):
    async def beat(self) -> None: ...
    async def leave(self) -> None: ...


@asynccontextmanager
async def keep_online(
    user: str,
    session: str | None = None,
    *,
    url: str = "http://127.0.0.1:7400",
    token: Token | None = None,
    ssl: tls.SSLContext | None = None,
    redis: RedisClient | None = None,
    prefix: str = "presence:",
    ttl_s: float = 30.0,
) -> AsyncIterator[None]:
    """Keeps a user online while the block runs; then the user goes offline at once.

    Heartbeats go to the daemon at ``url``, or with ``redis`` straight into Redis, as keys that begin with ``prefix``. One
    follows each third of ``ttl_s`` seconds, so that two may be lost. A heartbeat that fails is logged, and the next one
    may succeed.

        async with keybeat.keep_online("alice", "phone"):
            ...
    """
    if not is_name(user):
        raise ValueError(f"{user!r} is not a user name")
    ttl_ms = round(ttl_s * 1000)
    sender: _Sender
    if redis is not None:
        sender = _ByRedis(redis, prefix + user + (f"#{session}" if session else ""), ttl_ms)
    else:
        sender = _ByHttp(url, user, session, token, ssl, ttl_ms)
    await _try(sender.beat(), "a heartbeat failed")
    stopped = asyncio.Event()
    beats = asyncio.create_task(_beats(sender, ttl_s / 3, stopped), name="keybeat heartbeats")
    try:
        yield
    finally:
        # A heartbeat that is on its way must not arrive after the goodbye.
        stopped.set()
        await beats
        await _try(sender.leave(), f"the goodbye failed; {user} goes offline when the TTL ends")


async def _beats(sender: _Sender, every_s: float, stopped: asyncio.Event) -> None:
    while not stopped.is_set():
        try:
            async with asyncio.timeout(every_s):
                await stopped.wait()
        except TimeoutError:
            await _try(sender.beat(), "a heartbeat failed")


async def _try(call: Any, otherwise: str) -> None:
    try:
        async with asyncio.timeout(REQUEST_S):
            await call
    except Exception as why:  # of Redis, of the network, of the token function
        log.warning("%s: %s", otherwise, why or type(why).__name__)


class _ByRedis:
    def __init__(self, redis: RedisClient, key: str, ttl_ms: int) -> None:
        self._redis, self._key, self._ttl_ms = redis, key, ttl_ms
        # A client without asyncio would block the loop.
        self._blocks = not inspect.iscoroutinefunction(getattr(redis, "execute_command", None))

    async def beat(self) -> None:
        await self._call(lambda: self._redis.set(self._key, 1, px=self._ttl_ms))

    async def leave(self) -> None:
        await self._call(lambda: self._redis.delete(self._key))

    async def _call(self, call: Any) -> None:
        found = await asyncio.to_thread(call) if self._blocks else call()
        if inspect.isawaitable(found):
            await found


class _ByHttp:
    def __init__(
        self,
        url: str,
        user: str,
        session: str | None,
        token: Token | None,
        ssl: tls.SSLContext | None,
        ttl_ms: int,
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/users/{quote(user, safe='')}"
        self._session, self._token, self._ssl, self._ttl_ms = session, token, ssl, ttl_ms

    async def beat(self) -> None:
        await self._call("PUT", "/heartbeat", {"session": self._session, "ttl_ms": self._ttl_ms})

    async def leave(self) -> None:
        await self._call("DELETE", "", {"session": self._session} if self._session else None)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        token = self._token() if callable(self._token) else self._token
        token = await token if inspect.isawaitable(token) else token
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        await asyncio.to_thread(self._request, request)

    def _request(self, request: urllib.request.Request) -> None:
        try:
            urllib.request.urlopen(request, timeout=REQUEST_S, context=self._ssl).close()
        except urllib.error.HTTPError as why:
            with why:
                raise KeybeatError(_message(why.read(), why.code)) from None


def _message(body: bytes, status: int) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"the daemon answered {status}"

"""A client: it keeps one connection, and reconnects as the close codes advise."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl as tls
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ._backoff import Backoff
from ._session import End, Session
from ._types import Connection, Group, KeybeatError, Members, Occupancy, RedisStatus, Refused, Status, Stopped, Token, User
from ._watches import Report, Watches, is_name, long_status, names, no_name

if TYPE_CHECKING:
    from ._changes import Changes

log = logging.getLogger("keybeat")

Kind = Literal["change", "status", "group", "members", "occupancy", "refused", "redis", "connection"]
_KINDS: dict[type[Report], Kind] = {
    User: "change",
    Status: "status",
    Group: "group",
    Members: "members",
    Occupancy: "occupancy",
    Refused: "refused",
}


class Client:
    """Watches users over one connection to the daemon at ``url``.

    ``url`` may have the path below which a proxy serves the daemon. With ``user``, or a ``token`` that names one, the
    connection keeps that user online while it is open. With ``beat=False`` it does not, and with ``beat="message"`` only
    messages of this client do. A daemon that refuses one of these stops the client. ``ssl`` is the context for ``https://``.

        async with keybeat.Client("http://127.0.0.1:7400") as client:
            async with client.watch(["alice"]) as changes:
                ...
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:7400",
        *,
        token: Token | None = None,
        user: str | None = None,
        session: str | None = None,
        beat: Literal[False, "message"] | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not a daemon's address; write http://HOST:PORT or https://HOST")
        self._url = url
        self._token = token
        query = {"user": user, "session": session, "beat": "false" if beat is False else beat}
        self._query = {name: value for name, value in query.items() if value}
        self._ssl = ssl
        self._watches = Watches(self._report)
        self._backoff = Backoff()
        self._connection = Connection("connecting")
        self._redis = RedisStatus(up=True)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._changes: set[Changes] = set()
        self._waiters: set[asyncio.Future[None]] = set()
        #: How many seconds of the client pass in a second. Tests run faster.
        self._speed = 1.0

    # --- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Connects at once, and again whenever the connection is lost. ``async with`` calls it."""
        if self._task:
            raise KeybeatError("the client was started before; make another one")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="keybeat")

    async def close(self) -> None:
        """Closes the connection for good. The connection's own user goes offline at once."""
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.state != "stopped":
            self._become(Connection("stopped", "closed"))

    # --- what is known ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``connecting``, ``live``, ``waiting`` or ``stopped``."""
        return self._connection.state

    @property
    def reason(self) -> str:
        """Why the client waits or has stopped."""
        return self._connection.reason

    @property
    def redis(self) -> RedisStatus:
        return self._redis

    @property
    def users(self) -> Mapping[str, User]:
        """All known users: those watched by name, and with a watch of everybody all who are online."""
        return self._watches.users

    def get(self, user: str) -> User | None:
        """The known state of a user who is watched."""
        return self._watches.users.get(user)

    def status(self, user: str) -> Any:
        """The status of a user who is watched, any JSON; None without one."""
        return self._watches.statuses.get(user)

    async def ready(self) -> None:
        """Waits until the daemon has answered every watch. Raises ``Stopped`` when the client has stopped."""
        if self.state == "stopped":
            raise Stopped(self.reason)
        if self._watches.answered:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    # --- what to do -------------------------------------------------------------------------------------

    def watch(self, users: Iterable[str] | None = None) -> Changes:
        """Watches these users, or without names everybody, until the block ends. Several watches may have the same users."""
        from ._changes import Changes

        return Changes(self, users)

    def watch_groups(self, groups: Iterable[str], *, count: bool = False) -> None:
        """Watches groups: their members, or with ``count`` their counts. ``on`` reports them.

        "group" reports each group with its members online, at first and after each reconnect. Then "change" reports the
        changes of members, and "members" who came and went. "occupancy" reports counts. A group that is not watched, or not
        any more, is "refused".
        """
        for invalid in self._watches.watch_groups(names(groups), count):
            self._report(no_name("group", invalid, [], invalid))
        self._catch_up()

    def unwatch_groups(self, groups: Iterable[str]) -> None:
        """Stops watching these groups. Users who are watched otherwise stay watched."""
        self._watches.unwatch_groups(names(groups))
        self._catch_up()

    async def set_status(self, status: Any) -> bool:
        """Sets the status of the connection's own user: any JSON of at most 1,024 bytes; None removes it.

        It stays when the connection ends. False without a connection, and for a longer status. A longer status is "refused", and
        so is one that the daemon refuses.
        """
        if refused := long_status(status):
            self._report(refused)
            return False
        return await self._send({"type": "set_status", "status": status})

    async def heartbeat(self, user: str | None = None) -> bool:
        """Sends a heartbeat of the connection's own user, or of another if the token allows it.

        False without a connection, and for an invalid name, which is "refused".
        """
        if user and not is_name(user):
            self._report(no_name("user", user, []))
            return False
        return await self._send({"type": "heartbeat"} | ({"user": user} if user else {}))

    async def leave(self) -> bool:
        """The connection's own user goes offline at once. False without a connection."""
        return await self._send({"type": "leave"})

    async def _send(self, message: dict[str, Any]) -> bool:
        return self._session is not None and await self._session.send(message)

    @overload
    def on(self, kind: Literal["change"], call: Callable[[User], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["status"], call: Callable[[Status], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["group"], call: Callable[[Group], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["members"], call: Callable[[Members], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["occupancy"], call: Callable[[Occupancy], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["refused"], call: Callable[[Refused], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["redis"], call: Callable[[RedisStatus], object]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: Literal["connection"], call: Callable[[Connection], object]) -> Callable[[], None]: ...
    def on(self, kind: Kind, call: Callable[[Any], object]) -> Callable[[], None]:
        """Calls ``call`` with each event of this kind. Returns a function that ends this."""
        listeners = self._listeners.setdefault(kind, [])
        listeners.append(call)

        def end() -> None:
            if call in listeners:
                listeners.remove(call)

        return end

    # --- watches ----------------------------------------------------------------------------------------

    def _attach(self, changes: Changes) -> None:
        self._changes.add(changes)

    def _detach(self, changes: Changes, users: Iterable[str] | None) -> None:
        self._changes.discard(changes)
        self._unwatch(users, changes)

    def _watch(self, users: Iterable[str] | None, hold: object) -> None:
        if users is None:
            self._watches.watch_all(hold)
        elif invalid := self._watches.watch(users, hold):
            self._report(no_name("user", invalid[0], invalid))
        self._catch_up()

    def _unwatch(self, users: Iterable[str] | None, hold: object) -> None:
        if users is None:
            self._watches.unwatch_all(hold)
        else:
            self._watches.unwatch(users, hold)
        self._catch_up()

    def _catch_up(self) -> None:
        if self._session:
            self._session.catch_up()

    # --- events -----------------------------------------------------------------------------------------

    def _report(self, event: Report) -> None:
        for changes in list(self._changes):
            if isinstance(event, User):
                changes._take(event)
            elif isinstance(event, Refused):
                changes._take_refused(event)
        if isinstance(event, Refused):
            log.warning("the daemon refused: %s", event)
        self._call(_KINDS[type(event)], event)

    def _call(self, kind: Kind, event: object) -> None:
        for listener in list(self._listeners.get(kind, [])):
            try:
                listener(event)
            except Exception:  # the caller's fault, and not the client's
                log.exception("a listener of %s failed", kind)

    def _status(self, message: Mapping[str, Any]) -> None:
        up = message["redis"] == "up"
        if up != self._redis.up:
            self._redis = RedisStatus(up, message.get("since_ms", 0))
            self._call("redis", self._redis)

    def _answered(self) -> None:
        """Live, once the daemon has answered every watch."""
        if not self._watches.answered:
            return
        if self.state != "live":
            self._backoff.live(self._now())
            self._become(Connection("live"))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _become(self, connection: Connection) -> None:
        self._connection = connection
        if connection.state == "stopped":
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(Stopped(connection.reason))
            for changes in self._changes:
                changes._wake()
        if connection.state == "waiting":
            log.info("%s; reconnecting in %.1f s", connection.reason, connection.retry_s)
        self._call("connection", connection)

    # --- connections ------------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() * self._speed

    async def _run(self) -> None:
        try:
            while True:
                self._become(Connection("connecting"))
                end = await self._connect()
                if end.stop:
                    return self._become(Connection("stopped", end.reason))
                wait = self._backoff.wait(self._now(), end.later, random.random())
                self._become(Connection("waiting", end.reason, wait))
                await asyncio.sleep(wait / self._speed)
        except Exception as why:
            log.exception("the client failed")
            self._become(Connection("stopped", f"a fault of the client: {why!r}"))

    async def _connect(self) -> End:
        self._session = Session(self)
        try:
            return await self._session.run()
        finally:
            self._session = None
            self._watches.lost()

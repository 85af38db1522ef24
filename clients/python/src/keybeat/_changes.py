"""The changes of some users, as an iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from ._client import Client
from ._types import Refused, Stopped, User
from ._watches import names as checked


class Changes:
    """Iterates over the changes of the users whom it watches. The first report of each user is the present state.

    For a slow reader it keeps only the newest change of each user, and none that leads back to the state that the
    reader knows. The iteration raises ``Stopped`` when the client has stopped for good, and ``Refused`` when the daemon
    has refused every user of the watch. It ends when the watch is closed.
    """

    def __init__(self, client: Client, users: Iterable[str] | None, *, owns_client: bool = False) -> None:
        self._client = client
        self._owns_client = owns_client
        #: The users to watch; None: everybody.
        self._users = None if users is None else set(checked(users))
        #: The state that the reader knows of each user. Of everybody, only the users who are online.
        self._given: dict[str, bool] = {}
        #: The users whose state the reader does not know yet.
        self._waiting: dict[str, User] = {}
        #: Refusals of users of this watch, by name.
        self.refused: dict[str, Refused] = {}
        self._entered = self._closed = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this watch was entered before; make another one")
        self._entered = True
        if self._owns_client:
            self._client.start()
        self._client._attach(self)
        self._add(self._users)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the watch."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._client._detach(self, self._users)
        if self._owns_client:
            await self._client.close()

    def watch(self, users: Iterable[str]) -> None:
        """Watches these users too."""
        more = checked(users)
        if self._users is None:
            raise ValueError("this watch is of everybody; make another one for users by name")
        self._users.update(more)
        if self._entered and not self._closed:
            self._add(more)

    def unwatch(self, users: Iterable[str]) -> None:
        """Stops watching these users. Other watches of them go on."""
        gone = checked(users)
        if self._users is None:
            raise ValueError("this watch is of everybody; close it instead")
        self._users.difference_update(gone)
        self._client._unwatch(gone, self)
        for user in gone:
            for known in (self._given, self._waiting, self.refused):
                known.pop(user, None)

    def _add(self, users: Iterable[str] | None) -> None:
        self._client._watch(users, self)
        # Another watch may know them already.
        known = self._client.users
        for name in list(known) if users is None else users:
            if name in known:
                self._take(known[name])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> User:
        if not self._entered:
            raise RuntimeError("enter the watch first: async with keybeat.watch([...]) as changes")
        while True:
            if self._waiting:
                name = next(iter(self._waiting))
                return self._give(self._waiting.pop(name))
            if self._closed:
                raise StopAsyncIteration
            if self._client.state == "stopped":
                raise Stopped(self._client.reason)
            if self._users and self._users <= self.refused.keys():
                raise next(iter(self.refused.values()))
            self._changed.clear()
            await self._changed.wait()

    def _give(self, user: User) -> User:
        if self._users is None and not user.online:
            self._given.pop(user.name, None)
        else:
            self._given[user.name] = user.online
        return user

    # --- the client calls these -------------------------------------------------------------------------

    def _take(self, user: User) -> None:
        if self._users is not None and user.name not in self._users:
            return
        known = self._given.get(user.name, False if self._users is None else None)
        # The newest change goes to the end: it is reported in the order of its time.
        self._waiting.pop(user.name, None)
        if known != user.online:
            self._waiting[user.name] = user
        self._changed.set()

    def _take_refused(self, refused: Refused) -> None:
        if self._users is None:
            return
        for user in refused.users:
            if user in self._users:
                self.refused[user] = Refused(refused.code, refused.message, [user])
                self._given.pop(user, None)
                self._waiting.pop(user, None)
        self._changed.set()

    def _wake(self) -> None:
        self._changed.set()


def watch(users: Iterable[str] | None = None, url: str = "http://127.0.0.1:7400", **options: Any) -> Changes:
    """Watches these users, or without names everybody, over a connection of its own.

    ``options`` are those of ``Client``.

        async with keybeat.watch(["alice", "bob"]) as changes:
            async for user in changes:
                print(user.name, "is", user.state)
    """
    return Changes(Client(url, **options), users, owns_client=True)

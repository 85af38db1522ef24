"""A client of a keybeat daemon: who is online, correct again after every lost connection.

    async with keybeat.watch(["alice", "bob"]) as changes:
        async for user in changes:
            print(user.name, "is", user.state)

``Client`` watches for several parts of a program over one connection. ``keep_online`` sends heartbeats.
"""

from ._changes import Changes, watch
from ._client import Client
from ._heartbeats import keep_online
from ._types import Connection, KeybeatError, RedisStatus, Refused, Stopped, User

__all__ = [
    "Changes",
    "Client",
    "Connection",
    "KeybeatError",
    "RedisStatus",
    "Refused",
    "Stopped",
    "User",
    "keep_online",
    "watch",
]

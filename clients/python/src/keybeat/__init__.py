"""A client of a keybeat daemon: who is online, correct again after every lost connection.

    async with keybeat.watch(["alice", "bob"]) as changes:
        async for user in changes:
            print(user.name, "is", user.state)

``Client`` watches for several parts of a program over one connection. ``keep_online`` sends heartbeats.
"""

from ._changes import Changes, watch
from ._client import Client
from ._heartbeats import keep_online
from ._types import Connection, Group, KeybeatError, Members, Occupancy, RedisStatus, Refused, Status, Stopped, User

__all__ = [
    "Changes",
    "Client",
    "Connection",
    "Group",
    "KeybeatError",
    "Members",
    "Occupancy",
    "RedisStatus",
    "Refused",
    "Status",
    "Stopped",
    "User",
    "keep_online",
    "watch",
]

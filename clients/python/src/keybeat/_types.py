"""The reports of the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: A token, or a function that returns one. The client calls it for each connection and before a token expires.
Token = str | Callable[[], str | Awaitable[str]]


class KeybeatError(Exception):
    """An error of this package."""


class Stopped(KeybeatError):
    """The client has stopped for good. The text is the reason."""


class Refused(KeybeatError):
    """The daemon refused a request. ``users``, or ``group``, are not watched any more.

    ``users`` is empty if the request named no users.
    """

    def __init__(self, code: str, message: str, users: list[str], group: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.users = users
        self.group = group


@dataclass(frozen=True, slots=True)
class User:
    """The daemon's knowledge of a user. Times are milliseconds since the Unix epoch."""

    name: str
    online: bool
    #: Since when the user is online; None while offline.
    since_ms: int | None = None
    #: When the user was last seen; None while online, and if the daemon has never seen the user.
    last_seen_ms: int | None = None
    #: How many keys of the user are live. After a change to online it is 1 until the next snapshot.
    sessions: int = 0
    #: The daemon could not reach Redis: the state may be out of date.
    stale: bool = False
    #: Any JSON that the user's programs have set; None without a status.
    status: Any = field(default=None, hash=False)

    @property
    def state(self) -> Literal["online", "offline"]:
        return "online" if self.online else "offline"

    @staticmethod
    def read(message: Mapping[str, Any]) -> User:
        """The user of a user object or of a transition."""
        online = message["state"] == "online"
        sessions = message.get("sessions", 1) if online else 0
        times = {key: message.get(key) for key in (["since_ms"] if online else ["last_seen_ms"])}
        stale, status = message.get("stale", False), message.get("status")
        return User(message["user"], online, sessions=sessions, stale=stale, status=status, **times)


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a user is known for the first time, or has changed."""

    user: str
    #: Any JSON; None: it was removed.
    status: Any = field(hash=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A watched group, at first and after each reconnect."""

    name: str
    #: How many members there are, and how many of them are online.
    members: int
    online: int
    #: The members online. Of members who are offline nothing is known.
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """Members of a watched group came, each online or offline, or went."""

    group: str
    joined: tuple[User, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The counts of a group, at once and then at most once a second."""

    group: str
    members: int
    online: int


@dataclass(frozen=True, slots=True)
class Connection:
    """The state of the connection."""

    #: ``waiting`` for the next attempt, or ``stopped`` for good.
    state: Literal["connecting", "live", "waiting", "stopped"]
    #: Why the client waits or has stopped.
    reason: str = ""
    #: Seconds until the next attempt; None unless the client waits.
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """Whether the daemon follows Redis. While it does not, the known states may be out of date."""

    up: bool
    since_ms: int = 0

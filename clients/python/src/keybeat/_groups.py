"""The groups that the caller wants, and how far the daemon's answers have come. No clock, no socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._types import Group, Members, Occupancy, User

Message = dict[str, Any]

#: Wanted, and not asked for on this connection.
_NOT_ASKED = -1
#: The daemon has answered.
_ANSWERED = 0


class _Watch:
    """A group to watch."""

    def __init__(self, count: bool) -> None:
        #: Only the counts are wanted.
        self.count = count
        #: The id of the unanswered watch, or one of the numbers above.
        self.id = _NOT_ASKED
        #: The members online who have come so far.
        self.users: list[User] = []


class Groups:
    """See the module's head.

    Only the answer to the latest watch of a group counts; the daemon answers none that was unwatched since. So each
    group has one id, and messages about another id, or from before the answer, are older than the caller's wish.
    """

    def __init__(self, next_id: Callable[[], int]) -> None:
        self._next_id = next_id
        self._watches: dict[str, _Watch] = {}
        #: Groups that this connection's daemon watches for us, and that nobody wants any more.
        self._ended: dict[str, None] = {}

    @property
    def answered(self) -> bool:
        return all(watch.id == _ANSWERED for watch in self._watches.values())

    @property
    def have_members(self) -> bool:
        """Whether the daemon sends changes of users as members of a group."""
        return any(watch.id == _ANSWERED and not watch.count for watch in self._watches.values())

    def asked(self, id: object) -> bool:
        """Whether this is the id of an unanswered watch."""
        return isinstance(id, int) and id > 0 and any(watch.id == id for watch in self._watches.values())

    # --- the caller -------------------------------------------------------------------------------------

    def watch(self, groups: Iterable[str], count: bool) -> None:
        for group in groups:
            known = self._watches.get(group)
            if known is None or known.count != count:
                self._watches[group] = _Watch(count)

    def unwatch(self, groups: Iterable[str]) -> None:
        for group in groups:
            watch = self._watches.pop(group, None)
            if watch and watch.id != _NOT_ASKED:
                self._ended[group] = None

    # --- the connection ---------------------------------------------------------------------------------

    def lost(self) -> None:
        self._ended.clear()
        self._watches = {group: _Watch(watch.count) for group, watch in self._watches.items()}

    def catch_up(self) -> list[Message]:
        """The messages that ask for what the caller wants and does not have yet: one for each group."""
        messages: list[Message] = [{"type": "unwatch", "groups": [group]} for group in self._ended]
        self._ended.clear()
        for group, watch in self._watches.items():
            if watch.id == _NOT_ASKED:
                watch.id = self._next_id()
                count = {"count": True} if watch.count else {}
                messages.append({"type": "watch", "groups": [group], "id": watch.id, **count})
        return messages

    # --- the daemon's messages: these return what to report -----------------------------------------------

    def snapshot(self, message: Mapping[str, Any]) -> Group | None:
        name = message["group"]
        watch = self._watches.get(name)
        if watch is None or watch.count or watch.id in (_NOT_ASKED, _ANSWERED) or watch.id != message.get("id"):
            return None
        watch.users += [User.read(user) for user in message["users"]]
        if message.get("more"):
            return None
        watch.id = _ANSWERED
        users, watch.users = tuple(watch.users), []
        return Group(name, message["members"], message["online"], users)

    def members(self, message: Mapping[str, Any]) -> Members | None:
        watch = self._watches.get(message["group"])
        if watch is None or watch.count or watch.id != _ANSWERED:
            return None
        joined = tuple(User.read(user) for user in message["joined"])
        return Members(message["group"], joined, tuple(message["left"]))

    def occupancy(self, message: Mapping[str, Any]) -> Occupancy | None:
        watch = self._watches.get(message["group"])
        if watch is None or not watch.count or watch.id != (message.get("id") or _ANSWERED):
            return None
        watch.id = _ANSWERED
        return Occupancy(message["group"], message["members"], message["online"])

    def refused(self, group: object, id: object) -> str | None:
        """Forgets a group that the daemon does not watch, or not any more. The daemon would refuse it on each connection.

        Returns its name, or None if the error answers a watch that the caller has replaced or ended.
        """
        for name, watch in self._watches.items():
            if watch.id == (id or _ANSWERED) and group in (name, None):
                del self._watches[name]
                return name
        return None

"""The users that the caller wants, those that the daemon was asked for, and those that are known. No clock, no socket.

tests/clients/table.json has the rules for one user.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ._groups import Groups
from ._types import Group, Members, Occupancy, Refused, Status, User

Message = dict[str, Any]
#: What the client reports to the caller.
Report = User | Refused | Status | Group | Members | Occupancy

#: A message may have 64 KiB. This many bytes of it may be names.
NAMES_BYTES = 48 * 1024
#: The daemon's limit for a name.
MAX_NAME_BYTES = 256
#: The daemon's limit for a status, in bytes of JSON.
MAX_STATUS_BYTES = 1024

#: Wanted, and not asked for on this connection.
_NOT_ASKED = -1
#: The daemon has answered.
_ANSWERED = 0


class _Question:
    """An unanswered watch: the users asked for (None: everybody), and those that have come so far."""

    def __init__(self, asked: list[str] | None) -> None:
        self.asked = asked
        self.users: list[User] = []


class Watches:
    """See the module's head. ``report`` receives each change and each refusal."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report
        #: Whether there is a connection.
        self._open = False
        #: The users to watch by name, each with the id of its unanswered watch, or one of the numbers above.
        self._names: dict[str, int] = {}
        #: Those of them whom the daemon was not asked for on this connection.
        self._unasked: dict[str, None] = {}
        #: For each of these users, the callers who watch.
        self._holds: dict[str, set[object]] = {}
        #: Users whom this connection's daemon watches for us, and whom nobody wants any more.
        self._ended: dict[str, None] = {}
        self._all_holds: set[object] = set()
        self._all_id = _NOT_ASKED
        self._all_ended = False
        #: Whether a snapshot of everybody was reported: then a user who is not in ``users`` is offline.
        self._all_known = False
        self._open_questions: dict[int, _Question] = {}
        self._last_id = 0
        self.groups = Groups(self.next_id)
        #: What is known: states, and the statuses of users who have one.
        self.users: dict[str, User] = {}
        self.statuses: dict[str, Any] = {}

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    @property
    def answered(self) -> bool:
        """Whether the daemon was asked for everything, and has answered."""
        asked = not self._all_holds or self._all_id != _NOT_ASKED
        return self._open and asked and not self._open_questions and not self._unasked and self.groups.answered

    def asked(self, id: object) -> bool:
        """Whether this is the id of an unanswered watch."""
        return id in self._open_questions or self.groups.asked(id)

    # --- the caller -------------------------------------------------------------------------------------

    def watch(self, users: Iterable[str], hold: object) -> list[str]:
        """``hold`` watches these users too. Returns those whose names are invalid."""
        invalid = []
        for user in users:
            if not is_name(user):
                invalid.append(user)
                continue
            if user not in self._names:
                self._names[user] = _NOT_ASKED
                self._unasked[user] = None
            self._holds.setdefault(user, set()).add(hold)
        return invalid

    def unwatch(self, users: Iterable[str], hold: object) -> None:
        """``hold`` stops watching these users. Users whom nobody watches are forgotten."""
        for user in users:
            holds = self._holds.get(user, set())
            if hold not in holds:
                continue
            holds.discard(hold)
            if not holds:
                if self._names[user] != _NOT_ASKED:
                    self._ended[user] = None
                self._drop(user)

    def watch_all(self, hold: object) -> None:
        self._all_holds.add(hold)

    def unwatch_all(self, hold: object) -> None:
        if hold not in self._all_holds:
            return
        self._all_holds.discard(hold)
        if not self._all_holds:
            self._all_ended |= self._all_id != _NOT_ASKED
            self._drop_all()

    def watch_groups(self, groups: Iterable[str], count: bool) -> list[str]:
        """Watches these groups too. Returns those whose names are invalid."""
        groups = list(groups)
        self.groups.watch(filter(is_name, groups), count)
        return [group for group in groups if not is_name(group)]

    def unwatch_groups(self, groups: Iterable[str]) -> None:
        self.groups.unwatch(groups)
        self._forget_statuses()

    def _drop(self, user: str) -> None:
        self._names.pop(user, None)
        self._unasked.pop(user, None)
        self._holds.pop(user, None)
        if not self._all_known:
            self.statuses.pop(user, None)
        known = self.users.get(user)
        # The watch of everybody still covers a user who is online.
        if known and not (self._all_known and known.online):
            del self.users[user]

    def _drop_all(self) -> None:
        self._all_holds.clear()
        self._all_known = False
        self._all_id = _NOT_ASKED
        self.users = {name: user for name, user in self.users.items() if name in self._names}
        self._forget_statuses()

    def _forget_statuses(self) -> None:
        """Forgets the statuses of users who are not watched any more."""
        if not self._all_known and not self.groups.have_members:
            self.statuses = {name: status for name, status in self.statuses.items() if name in self._names}

    # --- the connection ---------------------------------------------------------------------------------

    def connected(self) -> None:
        self._open = True

    def lost(self) -> None:
        self._open = self._all_ended = False
        self._ended.clear()
        self._open_questions.clear()
        self._all_id = _NOT_ASKED
        self.groups.lost()
        self._names = dict.fromkeys(self._names, _NOT_ASKED)
        self._unasked = dict.fromkeys(self._names)

    def catch_up(self) -> list[Message]:
        """The messages that ask the daemon for what the caller wants and does not have yet."""
        messages: list[Message] = []
        if not self._open:
            return messages
        if self._all_ended:
            self._all_ended = False
            messages.append({"type": "unwatch", "all": True})
        if self._all_holds and self._all_id == _NOT_ASKED:
            id = self._all_id = self.next_id()
            self._open_questions[id] = _Question(None)
            messages.append({"type": "watch", "all": True, "id": id})
        messages += [{"type": "unwatch", "users": some} for some in _chunks(self._ended)]
        self._ended.clear()
        unasked, self._unasked = self._unasked, {}
        for some in _chunks(unasked):
            id = self.next_id()
            self._names.update((user, id) for user in some)
            self._open_questions[id] = _Question(some)
            messages.append({"type": "watch", "users": some, "id": id})
        return messages + self.groups.catch_up()

    # --- the daemon's messages --------------------------------------------------------------------------

    def snapshot(self, message: Mapping[str, Any]) -> None:
        if "group" in message:
            return self._group(self.groups.snapshot(message))
        id = message.get("id")
        question = self._open_questions.get(id) if isinstance(id, int) else None
        if question is None or not isinstance(id, int):
            return
        question.users += [User.read(user) for user in message["users"]]
        if message.get("more"):
            return
        del self._open_questions[id]
        if question.asked is None:
            if self._all_id == id:
                self._everybody(question.users)
        else:
            # A user who was unwatched since, or watched again by a later message, is skipped.
            news = [user for user in question.users if self._names.get(user.name) == id]
            for user in news:
                self._names[user.name] = _ANSWERED
                self._learn_whole(user)
        for refused in message.get("refused", []):
            self._refuse([refused["user"]], id, refused["code"], refused["message"])

    def _everybody(self, online: list[User]) -> None:
        self._all_known, self._all_id = True, _ANSWERED
        here = {user.name for user in online}
        for known in list(self.users.values()):
            if known.online and known.name not in here:
                self._learn(User(known.name, False))
        # The daemon sends the statuses of users who are offline after the snapshot.
        for name in list(self.statuses):
            if name not in here and name not in self._names:
                self._note(name, None)
        for user in online:
            self._learn_whole(user)

    def transitions(self, message: Mapping[str, Any]) -> None:
        for transition in message["transitions"]:
            user = User.read(transition)
            if self._state(user.name) is not None:
                self._learn(user)
            elif self._is_member(user.name):
                self._report(replace(user, status=self.statuses.get(user.name)))
            # Otherwise it was sent before an unwatch, or before the snapshot.

    def statuses_changed(self, message: Mapping[str, Any]) -> None:
        for change in message["statuses"]:
            name = change["user"]
            if self._state(name) is not None or self._is_member(name):
                self._note(name, change["status"])

    def members(self, message: Mapping[str, Any]) -> None:
        self._group(self.groups.members(message))

    def occupancy(self, message: Mapping[str, Any]) -> None:
        self._group(self.groups.occupancy(message))

    def _group(self, event: Group | Members | Occupancy | None) -> None:
        if event is None:
            return
        users = event.users if isinstance(event, Group) else event.joined if isinstance(event, Members) else ()
        for user in users:
            self._note(user.name, user.status)
        self._report(event)

    def _is_member(self, name: str) -> bool:
        """Whether news of a user whose state is not known can be of a member of a group. The client does not know who the
        members are: a snapshot has only those online."""
        return name not in self._names and self.groups.have_members

    def _state(self, name: str) -> bool | None:
        known = self.users.get(name)
        return known.online if known else (False if self._all_known else None)

    def _learn_whole(self, user: User) -> None:
        """Learns the state and the status."""
        is_news = self._set_status(user.name, user.status)
        self._learn(user)
        if is_news:
            self._report(Status(user.name, user.status))

    def _note(self, name: str, status: Any) -> None:
        if self._set_status(name, status):
            if known := self.users.get(name):
                self.users[name] = replace(known, status=status)
            self._report(Status(name, status))

    def _set_status(self, name: str, status: Any) -> bool:
        """Returns whether it is another one. As JSON, since 1 and true are equal in Python."""
        before = self.statuses.get(name)
        if json.dumps(before, sort_keys=True) == json.dumps(status, sort_keys=True):
            return False
        if status is None:
            del self.statuses[name]
        else:
            self.statuses[name] = status
        return True

    def _learn(self, user: User) -> None:
        # A transition has no status.
        user = replace(user, status=self.statuses.get(user.name))
        by_name = user.name in self._names
        # The state of a user who is newly watched by name is reported even if the watch of everybody implied it.
        before = None if by_name and user.name not in self.users else self._state(user.name)
        if user.online or by_name:
            self.users[user.name] = user
        else:
            self.users.pop(user.name, None)
        if before != user.online:
            self._report(user)

    def error(self, message: Mapping[str, Any]) -> None:
        id, code, text = message.get("id"), message.get("code", ""), message.get("message", "")
        if "group" in message or self.groups.asked(id):
            group = self.groups.refused(message.get("group"), id)
            self._forget_statuses()
            return self._report(Refused(code, text, [], group))
        question = self._open_questions.pop(id, None) if isinstance(id, int) else None
        if question and isinstance(id, int) and question.asked is not None:
            self._refuse(question.asked, id, code, text)
            return
        if question and self._all_id == id:
            self._drop_all()
        self._report(Refused(code, text, []))

    def _refuse(self, users: list[str], id: int, code: str, text: str) -> None:
        """The daemon would refuse these users on each connection, so the client does not ask for them again."""
        gone = [user for user in users if self._names.get(user) == id]
        for user in gone:
            self._drop(user)
        self._report(Refused(code, text, gone))


def is_name(name: str) -> bool:
    """Whether the daemon takes this name of a user or a group: 1 to 256 bytes of UTF-8, no control character, no ``#``."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    control = any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in name)
    return 1 <= size <= MAX_NAME_BYTES and "#" not in name and not control


def no_name(kind: str, name: str, users: list[str], group: str | None = None) -> Refused:
    """The refusal of a name that no daemon takes."""
    rule = f"it must have 1 to {MAX_NAME_BYTES} bytes of UTF-8, without # and control characters"
    shown = json.dumps(name[:40]) + ("…" if len(name) > 40 else "")
    return Refused(f"invalid_{kind}", f"not a {kind} name: {shown}; {rule}", users, group)


def long_status(status: Any) -> Refused | None:
    """The refusal of a status that is too long for the daemon.

    The daemon would close the connection if the message had more than 64 KiB.
    """
    size = len(json.dumps(status, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass"))
    if size <= MAX_STATUS_BYTES:
        return None
    return Refused("too_large", f"the status has {size} bytes; at most {MAX_STATUS_BYTES} bytes of JSON are allowed", [])


def names(users: Iterable[str]) -> list[str]:
    """The names that a caller passed, each once."""
    if isinstance(users, (str, bytes)):
        raise TypeError(f"pass a list of names: [{users!r}]")
    found = list(dict.fromkeys(users))
    for user in found:
        if not isinstance(user, str):
            raise TypeError(f"a name must be a str, and this is {type(user).__name__}: {user!r}")
    return found


def _chunks(users: Iterable[str]) -> Iterator[list[str]]:
    """Lists of names that each fit into a message."""
    some: list[str] = []
    size = 0
    for user in users:
        more = len(json.dumps(user)) + 2
        if some and size + more > NAMES_BYTES:
            yield some
            some, size = [], 0
        some.append(user)
        size += more
    if some:
        yield some

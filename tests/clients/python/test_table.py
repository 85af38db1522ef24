"""The Python client against tests/clients/table.json, with random sequences of calls, answers and lost connections."""

import json
import random
import unittest
from pathlib import Path

from keybeat._types import Refused
from keybeat._watches import Watches

TABLE = json.loads(Path(__file__).parents[1].joinpath("table.json").read_text())
USERS = ["alice", "bob", "carol"]
KINDS = [*["watch"] * 3, *["unwatch"] * 2, *["flip"] * 3, *["connect"] * 2, "lose", "refuse", "fill", *["receive"] * 5]


class Daemon:
    """Answers at once; its messages wait until the test delivers them."""

    def __init__(self):
        self.online = set()
        self.forget()

    def forget(self):
        self.watched, self.queue, self.refuses, self.full = set(), [], False, False

    def object(self, user):
        online = user in self.online
        return {"user": user, "state": "online", "since_ms": 1} if online else {"user": user, "state": "offline"}

    def flip(self, user):
        self.online ^= {user}
        if user in self.watched:
            self.queue.append({"type": "transitions", "transitions": [self.object(user)]})

    def take(self, message):
        users, id = message["users"], message.get("id")
        if message["type"] == "unwatch":
            self.watched -= set(users)
        elif self.full or self.refuses:
            code = "not_ready" if self.full else "forbidden"
            self.full, self.refuses = False, False if not self.full else self.refuses
            self.queue.append({"type": "error", "id": id, "code": code, "message": ""})
        else:
            self.watched |= set(users)
            self.queue.append({"type": "snapshot", "id": id, "users": [self.object(user) for user in users], "more": False})


class World:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.daemon, self.client = Daemon(), Watches(self.report)
        self.states = {user: dict(TABLE["state"]) for user in USERS}
        self.latest, self.asked = {}, {}
        self.reported, self.sends, self.reports = [], [], []

    def report(self, event):
        if isinstance(event, Refused):
            self.reported += [f"{user} refused" for user in event.users]
        else:
            self.reported.append(f"{event.name} {event.state}")

    @property
    def up(self):
        return self.states["alice"]["connection"] == "up"

    def expect(self, user, event):
        state = self.states[user]
        rows = (row for row in TABLE["rows"] if row["event"] == event)
        row = next(row for row in rows if all(state[field] == value for field, value in row.get("if", {}).items()))
        if "send" in row:
            self.sends.append(f"{user} {row['send']}")
        if "report" in row:
            # This client has one event for the first state and for changes.
            self.reports.append(f"{user} {row['report'].removeprefix('first ')}")
        state.update(row.get("then", {}))

    def expect_all(self, event):
        for user in USERS:
            self.expect(user, event)

    def receive(self):
        if not self.daemon.queue:
            return
        message = self.daemon.queue.pop(0)
        latest = lambda user: self.latest.get(user) == message["id"]
        if message["type"] == "transitions":
            for change in message["transitions"]:
                self.expect(change["user"], f"transition {change['state']}")
            self.client.transitions(message)
        elif message["type"] == "snapshot":
            for user in message["users"]:
                self.expect(user["user"], f"snapshot {user['state']}" if latest(user["user"]) else "old snapshot")
            self.client.snapshot(message)
        elif message["code"] == "not_ready":
            # The session ends the connection.
            self.expect_all("not ready")
            assert self.client.asked(message["id"])
            self.client.lost()
            self.daemon.forget()
        else:
            for user in self.asked[message["id"]]:
                self.expect(user, "refused" if latest(user) else "old refused")
            self.client.error(message)

    def connect(self):
        if not self.up:
            self.latest, self.asked = {}, {}
            self.expect_all("connected")
            self.daemon.forget()
            self.client.connected()

    def step(self):
        user, kind = self.random.choice(USERS), self.random.choice(KINDS)
        if kind in ("watch", "unwatch"):
            self.expect(user, kind)
            getattr(self.client, kind)([user], "hold")
        elif kind == "flip":
            self.daemon.flip(user)
        elif kind in ("connect", "receive"):
            getattr(self, kind)()
        elif kind == "refuse":
            self.daemon.refuses = self.up
        elif kind == "fill":
            self.daemon.full = self.up
        elif self.up:
            self.expect_all("lost")
            self.client.lost()
            self.daemon.forget()
        self.compare(f"{kind} {user}")

    def compare(self, step):
        sent = []
        for message in self.client.catch_up():
            self.daemon.take(message)
            for user in message["users"]:
                sent.append(f"{user} {message['type']}")
                if message["type"] == "watch":
                    self.latest[user] = message["id"]
                else:
                    self.latest.pop(user, None)
            if message["type"] == "watch":
                self.asked[message["id"]] = message["users"]
        assert sorted(sent) == sorted(self.sends), f"{step}: sent {sent}, and the table has {self.sends}"
        assert sorted(self.reported) == sorted(self.reports), f"{step}: {self.reported}, and the table has {self.reports}"
        self.sends, self.reports, self.reported = [], [], []
        for user, state in self.states.items():
            known = self.client.users.get(user)
            assert (known.state if known else "unknown") == state["known"], f"{step}: {user}"

    def end(self):
        """Once every message has arrived, the client knows what is true of the users who are watched, and nothing else."""
        while True:
            self.connect()
            self.compare("end")
            while self.daemon.queue and self.up:
                self.receive()
                self.compare("end")
            if self.up:
                break
        for user, state in self.states.items():
            assert state["known"] == (self.daemon.object(user)["state"] if state["desired"] else "unknown"), user
        assert self.client.answered


class Table(unittest.TestCase):
    def test_random_lives_follow_the_table(self):
        for seed in range(2_000):
            with self.subTest(seed=seed):
                world = World(seed)
                for _ in range(world.random.randrange(60)):
                    world.step()
                world.end()


if __name__ == "__main__":
    unittest.main()

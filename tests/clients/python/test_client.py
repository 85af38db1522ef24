"""The Python client's iterators, waits, arguments and heartbeats. No daemon is needed."""

import asyncio
import contextlib
import http.server
import json
import logging
import threading
import time
import unittest

import keybeat
from keybeat._types import Connection
from keybeat._watches import is_name


class Client(keybeat.Client):
    """A client whose daemon is this test."""

    def __init__(self):
        super().__init__()
        self._watches.connected()
        self.sent = []

    def _catch_up(self):
        self.sent += self._watches.catch_up()
        self._answered()

    def answer(self, *users, **more):
        message = {"type": "snapshot", "id": self.sent[-1]["id"], "users": [user_object(user) for user in users], **more}
        self._watches.snapshot(message)
        self._answered()

    def change(self, *users):
        self._watches.transitions({"transitions": [user_object(user) for user in users]})


def user_object(text):
    user, state = text.split()
    return {"user": user, "state": state, **({"since_ms": 1} if state == "online" else {"last_seen_ms": 2})}


async def next_one(changes):
    async with asyncio.timeout(5):
        user = await anext(changes)
    return f"{user.name} {user.state}"


async def nothing(test, changes):
    with test.assertRaises(TimeoutError):
        async with asyncio.timeout(0.02):
            await anext(changes)


class Changes(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)

    async def test_first_report_is_the_present_state(self):
        client = Client()
        async with client.watch(["alice", "bob"]) as changes:
            client.answer("alice online", "bob offline")
            self.assertEqual([await next_one(changes), await next_one(changes)], ["alice online", "bob offline"])
            client.change("bob online")
            self.assertEqual(await next_one(changes), "bob online")
            # Another watch knows it at once.
            async with client.watch(["bob"]) as more:
                self.assertEqual(await next_one(more), "bob online")

    async def test_slow_reader_gets_the_newest_change(self):
        client = Client()
        async with client.watch(["alice", "bob"]) as changes:
            client.answer("alice online", "bob offline")
            await next_one(changes), await next_one(changes)
            client.change("alice offline", "bob online", "alice online", "bob offline", "bob online")
            self.assertEqual(await next_one(changes), "bob online")
            await nothing(self, changes)

    async def test_everybody_reports_who_is_online(self):
        client = Client()
        async with client.watch() as changes:
            client.answer("alice online")
            client.change("bob online", "bob offline", "carol online")
            self.assertEqual([await next_one(changes), await next_one(changes)], ["alice online", "carol online"])
            client.change("alice offline")
            self.assertEqual(await next_one(changes), "alice offline")
            self.assertEqual((changes._given, list(client.users)), ({"carol": True}, ["carol"]))

    async def test_user_is_watched_until_every_watch_ends(self):
        client = Client()
        async with client.watch(["alice"]) as first:
            client.answer("alice online")
            async with client.watch(["alice", "bob"]) as second:
                client.answer("bob online")
                second.unwatch(["bob"])
                self.assertEqual(client.sent.pop(), {"type": "unwatch", "users": ["bob"]})
                first.unwatch(["alice"])
                self.assertEqual((list(client.users), len(client.sent)), (["alice"], 2))
            self.assertEqual(client.sent.pop(), {"type": "unwatch", "users": ["alice"]})
            self.assertEqual(client.users, {})

    async def test_refused_users_are_named(self):
        client = Client()
        seen = []
        client.on("refused", lambda why: seen.append((why.code, why.users)))
        async with client.watch(["alice", "a#b"]) as changes:
            self.assertEqual(seen, [("invalid_user", ["a#b"])])
            client.answer(refused=[{"user": "alice", "code": "forbidden", "message": "no"}])
            with self.assertRaises(keybeat.Refused):
                await anext(changes)
            self.assertEqual({name: why.code for name, why in changes.refused.items()}, {"a#b": "invalid_user", "alice": "forbidden"})
            changes.watch(["bob"])
            client.answer("bob offline")
            self.assertEqual(await next_one(changes), "bob offline")

    async def test_ready_waits_for_every_answer(self):
        client = Client()
        async with client.watch(["alice"]):
            waiting = asyncio.create_task(client.ready())
            await asyncio.sleep(0)
            self.assertFalse(waiting.done())
            client.answer("alice online")
            await waiting
            await client.ready()

    async def test_stopped_client_ends_waits_and_iterations(self):
        client = Client()
        async with client.watch(["alice"]) as changes:
            waiting = [asyncio.create_task(client.ready()), asyncio.create_task(anext(changes))]
            await asyncio.sleep(0)
            client._become(Connection("stopped", "forbidden"))
            for one in [*waiting, client.ready(), anext(changes)]:
                with self.assertRaisesRegex(keybeat.Stopped, "forbidden"):
                    await one

    async def test_closed_watch_ends_its_iteration(self):
        client = Client()
        async with client.watch(["alice"]) as changes:
            reading = asyncio.create_task(anext(changes, "the end"))
            await asyncio.sleep(0)
        self.assertEqual(await reading, "the end")

    async def test_arguments_that_are_no_names_are_refused(self):
        client = Client()
        for wrong in ["alice", b"alice", [1], [None], ["alice", 7]]:
            with self.assertRaises(TypeError):
                client.watch(wrong)
            with self.assertRaises(TypeError):
                keybeat.watch(wrong)
        with self.assertRaisesRegex(ValueError, "http://HOST:PORT"):
            keybeat.Client("localhost:7400")
        names = {"é" * 128: True, "é" * 129: False, "": False, "a#b": False, "a\nb": False, "a\x9fb": False, "\ud800": False, "💚": True}
        self.assertEqual({name: is_name(name) for name in names}, names)

    async def test_user_that_is_no_utf8_is_sent(self):
        # The daemon refuses it, and its message ends the client.
        states = []
        client = keybeat.Client("http://127.0.0.1:1", user="carl\ud83d")
        client.on("connection", lambda now: states.append((now.state, now.reason)))
        async with client:
            await until(lambda: len(states) > 1)
        self.assertRegex(str(states[1]), "waiting.*no daemon answers")

    async def test_fault_of_a_listener_is_its_own(self):
        client = Client()
        seen = []
        client.on("change", lambda user: 1 / 0)
        end = client.on("change", lambda user: seen.append(user.name))
        async with client.watch(["alice"]):
            client.answer("alice online")
            end()
            client.change("alice offline")
        self.assertEqual(seen, ["alice"])


class StatusesAndGroups(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)
        self.client, self.seen = Client(), []
        for kind in ("change", "status", "group", "members", "occupancy", "refused"):
            self.client.on(kind, self.seen.append)

    def taken(self):
        seen, self.seen[:] = list(self.seen), []
        return seen

    async def test_user_has_the_newest_status(self):
        alice = {"user": "alice", "state": "online", "since_ms": 1, "status": {"text": "away"}}
        async with self.client.watch(["alice"]) as changes:
            self.client._watches.snapshot({"id": self.client.sent[-1]["id"], "users": [alice]})
            user, status = self.taken()
            self.assertEqual((user.status, status), ({"text": "away"}, keybeat.Status("alice", {"text": "away"})))
            self.client._watches.statuses_changed({"statuses": [{"user": "alice", "status": 1}, {"user": "bob", "status": 2}]})
            self.assertEqual((self.client.get("alice").status, self.client.status("alice"), len(self.taken())), (1, 1, 1))
            # 1 and true are other values; a change of the state keeps the status.
            self.client._watches.statuses_changed({"statuses": [{"user": "alice", "status": True}]})
            self.client.change("alice offline")
            self.assertIs(self.client.get("alice").status, True)
            self.assertEqual(await next_one(changes), "alice offline")
            # Users with statuses are as hashable as others.
            self.assertEqual(len({user, self.client.get("alice")}), 2)
        self.assertIsNone(self.client.status("alice"))

    async def test_group_is_watched_once_and_forgotten(self):
        client = self.client
        client.watch_groups(["g"])
        client.watch_groups(["g"])
        (watch,) = client.sent
        self.assertFalse(client._watches.answered)
        alice = {"user": "alice", "state": "online", "since_ms": 1, "status": "a"}
        client._watches.snapshot({"id": watch["id"], "group": "g", "members": 2, "online": 1, "users": [alice]})
        status, group = self.taken()
        self.assertEqual((group.name, group.members, group.online, group.users[0].name), ("g", 2, 1, "alice"))
        self.assertTrue(client._watches.answered)
        client.change("bob online")
        (bob,) = self.taken()
        self.assertEqual((bob.name, bob.state, client.get("bob")), ("bob", "online", None))
        client.watch_groups(["g"], count=True)
        self.assertEqual(client.sent[-1], {"type": "watch", "groups": ["g"], "id": watch["id"] + 1, "count": True})
        client.change("bob offline")
        client._watches.occupancy({"id": watch["id"] + 1, "group": "g", "members": 2, "online": 0})
        self.assertEqual(self.taken(), [keybeat.Occupancy("g", 2, 0)])
        client.unwatch_groups(["g"])
        self.assertEqual((client.sent[-1], client.status("alice")), ({"type": "unwatch", "groups": ["g"]}, None))
        for call in (client.watch_groups, client.unwatch_groups):
            with self.assertRaises(TypeError):
                call("g")

    async def test_invalid_group_is_refused_alone(self):
        invalid = ["g\ud83d", "", "a#b", "x" * 70_000]
        self.client.watch_groups([*invalid, "g"])
        self.assertEqual([(why.code, why.users, why.group) for why in self.taken()], [("invalid_group", [], name) for name in invalid])
        (watch,) = self.client.sent
        self.assertEqual(watch["groups"], ["g"])
        self.client._watches.snapshot({"id": watch["id"], "group": "g", "members": 0, "online": 0, "users": []})
        self.assertTrue(self.client._watches.answered)

    async def test_too_long_message_is_not_sent(self):
        sent = []

        async def send(message):
            sent.append(message)
            return True

        self.client._send = send
        long = "x" * 70_000
        self.assertFalse(await self.client.heartbeat(long))
        for status in (long, "é" * 512, "\1" * 171):
            self.assertFalse(await self.client.set_status(status))
        self.assertEqual([why.code for why in self.taken()], ["invalid_user", "too_large", "too_large", "too_large"])
        for status in (["x" * 1020], {"text": "é" * 506}, "\ud800", None):
            self.assertTrue(await self.client.set_status(status))
        self.assertEqual((len(sent), self.taken()), (4, []))

    async def test_refused_group_is_named(self):
        self.client.watch_groups(["g"])
        id = self.client.sent[-1]["id"]
        self.client._watches.error({"id": id, "code": "too_large_group", "message": "no", "group": "g"})
        (why,) = self.taken()
        self.assertEqual((why.code, why.users, why.group), ("too_large_group", [], "g"))
        self.client._watches.lost()
        self.client._watches.connected()
        self.assertEqual(self.client._watches.catch_up(), [])


class Tokens(unittest.IsolatedAsyncioTestCase):
    async def test_token_function_that_never_ends_is_called_again(self):
        calls, reasons = [], []

        async def token():
            calls.append(1)
            await asyncio.Event().wait()

        async with keybeat.Client("http://127.0.0.1:1", token=token) as client:
            client._speed = 1_000
            client.on("connection", lambda connection: reasons.append(connection.reason))
            await until(lambda: len(calls) >= 2)
        self.assertTrue(any("the token function took more than 15" in reason for reason in reasons), reasons)


class Heartbeats(unittest.IsolatedAsyncioTestCase):
    async def test_heartbeats_go_to_the_daemon(self):
        with daemon() as (url, requests):
            async with keybeat.keep_online("al ice/é", "pho ne", url=url, token="t", ttl_s=0.3):
                await until(lambda: len(requests) >= 3)
        path = "/v1/users/al%20ice%2F%C3%A9"
        beat = ("PUT", f"{path}/heartbeat", {"session": "pho ne", "ttl_ms": 300}, "Bearer t")
        self.assertEqual(requests[:3], [beat] * 3)
        self.assertEqual(requests[-1], ("DELETE", path, {"session": "pho ne"}, "Bearer t"))

    async def test_failed_heartbeats_are_logged(self):
        with self.assertLogs("keybeat", "WARNING") as logs:
            async with keybeat.keep_online("alice", url="http://127.0.0.1:1", ttl_s=0.03):
                await asyncio.sleep(0.05)
        self.assertIn("a heartbeat failed", logs.output[0])
        self.assertIn("alice goes offline when the TTL ends", logs.output[-1])
        with self.assertRaisesRegex(ValueError, "a#b"):
            async with keybeat.keep_online("a#b"):
                pass

    async def test_heartbeats_go_through_either_redis_client(self):
        for client in (Blocking(), Asynchronous()):
            async with keybeat.keep_online("alice", "phone", redis=client, prefix="p:", ttl_s=0.3):
                await until(lambda: len(client.calls) >= 3)
            self.assertEqual(client.calls[:3], [("SET", "p:alice#phone", 1, 300)] * 3)
            self.assertEqual(client.calls[-1], ("DEL", "p:alice#phone"))

    async def test_goodbye_follows_a_slow_heartbeat(self):
        client = Blocking(slow_s=0.2)
        async with keybeat.keep_online("alice", redis=client, ttl_s=0.03):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        self.assertEqual(client.calls[-1][0], "DEL")


async def until(holds):
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


class Blocking:
    """As redis.Redis."""

    def __init__(self, slow_s=0.0):
        self.calls, self.slow_s = [], slow_s

    def execute_command(self):
        raise NotImplementedError

    def set(self, name, value, *, px):
        time.sleep(self.slow_s)
        self.calls.append(("SET", name, value, px))

    def delete(self, *names):
        self.calls.append(("DEL", *names))


class Asynchronous(Blocking):
    """As redis.asyncio.Redis: the commands return awaitables."""

    async def execute_command(self):
        raise NotImplementedError

    def set(self, name, value, *, px):
        async def call():
            super(Asynchronous, self).set(name, value, px=px)

        return call()

    def delete(self, *names):
        async def call():
            super(Asynchronous, self).delete(*names)

        return call()


@contextlib.contextmanager
def daemon():
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append((self.command, self.path, body, self.headers["authorization"]))
            self.send_response(204)
            self.end_headers()

        do_PUT = do_DELETE = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    unittest.main()

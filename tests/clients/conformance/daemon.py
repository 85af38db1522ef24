"""A scripted daemon: it does what a case says, and checks what the client does."""

import asyncio
import json
from urllib.parse import parse_qsl, urlsplit

from wire import BINARY, PING, Connection, Gone, Request, read_head

EPOCH = "conformance"


class Fault(AssertionError):
    """The client did something that the case does not allow."""


def user_object(text):
    """`alice online` as a user object; with a status `["alice online", status]`."""
    if isinstance(text, list):
        return {**user_object(text[0]), "status": text[1]}
    user, state = text.rsplit(" ", 1)
    if state == "online":
        return {"user": user, "state": state, "since_ms": 1000, "sessions": 1}
    return {"user": user, "state": state, "last_seen_ms": None}


def transition(text):
    """`alice online` as a transition."""
    user, state = text.rsplit(" ", 1)
    online = state == "online"
    times = {"since_ms": 2000} if online else {"last_seen_ms": 1900}
    return {"seq": 1, "user": user, "state": state, "at_ms": 2000, **times, "reason": "heartbeat" if online else "expired"}


class Daemon:
    def __init__(self):
        self.port = 0
        self.server = None
        self.arrived = asyncio.Queue()
        self.connection = None
        self.refusal = (426, {"error": {"code": "invalid_request", "message": "this is a WebSocket"}})
        #: Whether it answers plain requests.
        self.explains = True
        self.ids = {}
        self.connections = []

    async def open(self):
        self.server = await asyncio.start_server(self._arrive, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def away(self):
        self.server.close()
        while not self.arrived.empty():
            self.arrived.get_nowait().cut()

    async def end(self):
        self.server.close()
        for connection in self.connections:
            connection.cut()

    async def _arrive(self, reader, writer):
        try:
            request = Request(await read_head(reader))
        except (EOFError, ConnectionError, ValueError):
            return writer.close()
        connection = Connection(reader, writer, request)
        self.connections.append(connection)
        if request.upgrades:
            self.arrived.put_nowait(connection)
        elif self.explains:
            # A browser learns from a plain request why its socket was refused.
            await connection.answer(*self.refusal)

    # --- the steps of a case: each is a method with the step's name -----------------------------------------

    async def accept(self, step):
        wanted = step["accept"]
        connection = await self._next(wanted)
        await connection.accept()
        self.connection = connection
        if wanted.get("hello", True):
            hello = {"type": "hello", "protocol": 1, "epoch": EPOCH, "seq": 0, "ttl_ms": 30000}
            await self._send(hello)
            await self._send({"type": "status", "redis": wanted.get("redis", "up"), "since_ms": 1})

    async def _next(self, wanted):
        connection = await self.arrived.get()
        request = connection.request
        address = urlsplit(request.target)
        check(address.path == wanted.get("path", "/v1/ws"), f"the path is {address.path}")
        check("keybeat.v1" in request.protocols, f"the subprotocols are {request.protocols}")
        if "query" in wanted:
            query = dict(parse_qsl(address.query))
            check(query == wanted["query"], f"the query is {query}")
        if "token" in wanted:
            check(request.token == wanted["token"], f"the token is {request.token}")
        return connection

    async def refuse(self, step):
        status = step["refuse"]
        self.refusal = (status, {"error": {"code": step.get("code", "busy"), "message": step.get("message", "no")}})
        self.explains = step.get("explains", True)
        connection = await self._next(step)
        await connection.answer(*self.refusal)

    async def stall(self, step):
        """Takes a connection and never answers."""
        await self._next(step)

    async def expect(self, step):
        wanted = dict(step["expect"])
        message = await self._message()
        id = message.pop("id", None)
        for one in (message, wanted):
            if "users" in one:
                one["users"] = sorted(one["users"])
        check(message == wanted, f"the client sent {message}")
        self.ids["last"] = self.ids[step.get("as", "last")] = id

    async def expect_names(self, step):
        """Watches of many users, in messages that the daemon can take; answers each."""
        found = []
        while len(found) < step["expect_names"]:
            text = await self.connection.message()
            check(len(text.encode()) <= 64 * 1024, f"a message has {len(text.encode())} bytes")
            message = json.loads(text)
            check(message["type"] == "watch", f"the client sent {message['type']}")
            found += message["users"]
            users = [user_object(f"{user} offline") for user in message["users"]]
            await self._snapshot(message["id"], users, False)
        check(len(found) == len(set(found)), "the client asked twice for a user")

    async def _message(self):
        text = await self.connection.message()
        try:
            return json.loads(text)
        except ValueError:
            raise Fault(f"the client sent {text!r}") from None

    async def snapshot(self, step):
        users = [user_object(text) for text in step["snapshot"]]
        refused = [{"user": user, "code": code, "message": "no"} for user, code in step.get("refused", [])]
        await self._snapshot(
            self.ids[step.get("to", "last")], users, step.get("more", False), refused, step.get("fragments", 1)
        )

    async def group(self, step):
        """A snapshot of a group."""
        counts = {"group": step["group"], "members": step["members"], "online": step["online"]}
        users = [user_object(text) for text in step["users"]]
        message = {"type": "snapshot", "id": self.ids[step.get("to", "last")], "epoch": EPOCH, "seq": 1, **counts}
        await self._send({**message, "users": users, "more": step.get("more", False)})

    async def members(self, step):
        joined = [user_object(text) for text in step.get("joined", [])]
        await self._send({"type": "members", "group": step["members"], "joined": joined, "left": step.get("left", [])})

    async def statuses(self, step):
        statuses = [{"user": user, "status": status} for user, status in step["statuses"].items()]
        await self._send({"type": "statuses", "statuses": statuses})

    async def occupancy(self, step):
        online, members = step["counts"]
        id = {"id": self.ids[step["to"]]} if "to" in step else {}
        await self._send({"type": "occupancy", "group": step["occupancy"], "members": members, "online": online, **id})

    async def _snapshot(self, id, users, more, refused=(), fragments=1):
        message = {"type": "snapshot", "id": id, "epoch": EPOCH, "seq": 1, "users": users, "more": more}
        if refused:
            message["refused"] = list(refused)
        await self._send(message, fragments)

    async def transitions(self, step):
        await self._send({"type": "transitions", "seq": 1, "transitions": list(map(transition, step["transitions"]))})

    async def send(self, step):
        message = dict(step["send"])
        if step.get("to", "none") != "none":
            message["id"] = self.ids[step["to"]]
        await self._send(message)

    async def _send(self, message, fragments=1):
        await self.connection.send(json.dumps(message), fragments=fragments)

    async def raw(self, step):
        await self.connection.send(step["raw"])

    async def binary(self, step):
        await self.connection.send(step["binary"], BINARY)

    async def ping_frame(self, step):
        await self.connection.send(step["ping_frame"], PING)
        answer = await self.connection.message()
        check(answer == "PONG " + step["ping_frame"], f"the client sent {answer}")

    async def close(self, step):
        await self.connection.close(step["close"], step.get("reason", ""))

    async def cut(self, step):
        self.connection.cut()

    async def silence(self, step):
        """From now on nothing reaches the client, and nothing of the client is read."""
        self.connection = None

    async def closed_by_client(self, step):
        try:
            message = await self.connection.message()
        except Gone as gone:
            return check(gone.code in step["closed_by_client"], f"the client closed with {gone.code}")
        raise Fault(f"the client sent {message}")

    async def set_away(self, step):
        await (self.away() if step["set_away"] else self.open())

    def unasked(self):
        """What the client did that no step has taken."""
        found = [f"a connection to {connection.request.target}" for connection in list(self.arrived._queue)]
        frames = list(self.connection.frames._queue) if self.connection else []
        return found + [f"the message {one}" for one in frames if not isinstance(one, Gone)]


def check(holds, otherwise):
    if not holds:
        raise Fault(otherwise)

"""A real daemon behind a proxy that cuts a connection at a chosen message; afterwards the client has to be right."""

import asyncio
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from contextlib import asynccontextmanager

from client import Client, describe
from daemon import Fault, check
from wire import read_frame, read_head

#: How many messages each side sends in the lives below, without a cut.
OF_DAEMON, OF_CLIENT = 9, 3
OF_DAEMON_IN_ROOM, OF_CLIENT_IN_ROOM = 10, 1
PATIENCE_S = 30


class Proxy:
    """Cuts a connection once, after so many messages of one side. With `half`, the next one arrives by half."""

    def __init__(self, port, of_daemon=None, of_client=None, half=False):
        self.target, self.limits, self.half = port, (of_daemon, of_client), half
        self.server, self.port = None, 0
        self.writers, self.tasks = [], set()
        self.connections = 0
        self.cut = asyncio.Event()

    async def open(self):
        self.server = await asyncio.start_server(self._arrive, "127.0.0.1", 0, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]

    def end(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()

    async def _arrive(self, near, to_near):
        far, to_far = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 20)
        self.writers += [to_near, to_far]
        self.connections += 1
        # On a busy machine a client may give up its first handshake, so the connections count from the cut.
        limits = (None, None) if self.cut.is_set() else self.limits
        both = (to_near, to_far)
        for reader, writer, limit in ((far, to_near, limits[0]), (near, to_far, limits[1])):
            task = asyncio.create_task(self._carry(reader, writer, limit, both))
            self.tasks.add(task)

    async def _carry(self, reader, writer, limit, both):
        raw = []
        try:
            await read_head(reader, raw)
            writer.write(raw.pop())
            while limit is None and (data := await reader.read(1 << 16)):
                writer.write(data)
            while limit:
                await read_frame(reader, raw)
                writer.write(raw.pop())
                limit -= 1
            if limit is None:
                return writer.write_eof()
            if self.half:
                await read_frame(reader, raw)
                writer.write(raw[0][: len(raw[0]) // 2])
                await writer.drain()
                await asyncio.sleep(0.05)
            self.cut.set()
        except (EOFError, OSError):
            pass
        for one in both:
            one.transport.abort()


class Life:
    """What happens to some users, and what a client has to know of them in the end."""

    def __init__(self, world, name, proxy, command, speed):
        self.world, self.name, self.proxy = world, name, proxy
        self.command, self.speed = command, speed
        self.users = {user: f"{name}-{user}".replace(" ", "-") for user in "abcd"}
        self.known = {}

    async def run(self):
        await self.proxy.open()
        self.client = Client(self.command, {"url": f"http://127.0.0.1:{self.proxy.port}"}, self.speed)
        await self.client.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._live()
        except TimeoutError:
            raise Fault(f"it knows {self.known} in the end, after {self.proxy.connections} connections") from None
        finally:
            self.proxy.end()
            errors = await self.client.end()
            if errors:
                print(errors)

    async def _live(self):
        a, b, c, d = self.users.values()
        await self._call("watch", [a, b])
        await self.client_is("live")
        for user, online in ((a, True), (b, True), (a, False)):
            await self._set(user, online)
        await self._call("watch", [c, d])
        await self._set(c, True)
        await self._call("unwatch", [b])
        self.known.pop(b, None)
        await self._set(b, False)
        await self._set(d, True)
        await self._set(c, False)
        truth = {a: "offline", c: "offline", d: "online"}
        while self.known != truth:
            self._take(await self.client.reports.get())
        await asyncio.sleep(0.2)
        while not self.client.reports.empty():
            self._take(self.client.reports.get_nowait())
        check(self.known == truth, f"it knows {self.known} in the end")
        wanted = any(limit is not None for limit in self.proxy.limits)
        check(self.proxy.cut.is_set() == wanted, "the proxy has not cut the connection")

    async def client_is(self, state):
        while True:
            report = await self.client.reports.get()
            self._take(report)
            if report["report"] == state:
                return

    async def _call(self, call, users):
        # Reports from before an unwatch come first.
        await self.client.call({"call": call, "users": users})
        while not self.client.reports.empty():
            self._take(self.client.reports.get_nowait())

    def _take(self, report):
        text = report["report"]
        if text in ("live", "waiting"):
            return
        user, _, state = text.rpartition(" ")
        check(user in self.users.values() and state in ("online", "offline"), f"it reported {describe(report)}")
        check(self.known.get(user) != state, f"it reported {text} twice")
        self.known[user] = state

    async def _set(self, user, online):
        key = f"presence:{user}"
        await self.world.redis(*(["SET", key, "1", "EX", "60"] if online else ["DEL", key]))
        while await self.world.state(user) != ("online" if online else "offline"):
            await asyncio.sleep(0.01)
        # What the daemon knows is on its way to the client.
        await asyncio.sleep(0.02)


class Room(Life):
    """The same for the members of a group, and their statuses."""

    def __init__(self, world, name, proxy, command, speed):
        super().__init__(world, name, proxy, command, speed)
        self.name = name.replace(" ", "-")
        self.online, self.statuses = set(), {}

    async def _live(self):
        a, b, c, d = self.users.values()
        status = {user: f"presence-status:{user}" for user in (a, b, c, d)}
        group = f"presence-group:{self.name}"
        await self.world.redis("SET", status[d], "4")
        await self.world.redis("SADD", group, a, b, d)
        await self.client.call({"call": "watch_group", "group": self.name})
        await self.client_is("live")
        await self._set(a, True)
        await self._do(a, {"status": 1}, "SET", status[a], "1")
        await self._do(b, {"status": 2}, "SET", status[b], "2")
        await self._do(None, 4, "SADD", group, c)
        await self._set(c, True)
        await self._do(None, 3, "SREM", group, a)
        await self._do(b, {"status": {"text": "é"}}, "SET", status[b], '{"text":"é"}')
        await self._set(c, False)
        for user in (b, d):
            await self._set(user, True)
        truth = {b: '{"text":"é"}', d: "4"}
        while self.known != truth:
            self._take(await self.client.reports.get())
        await asyncio.sleep(0.2)
        while not self.client.reports.empty():
            self._take(self.client.reports.get_nowait())
        check(self.known == truth, f"it knows {self.known} in the end")
        wanted = any(limit is not None for limit in self.proxy.limits)
        check(self.proxy.cut.is_set() == wanted, "the proxy has not cut the connection")

    async def _do(self, user, wanted, *words):
        """A change in Redis, of which the daemon has to know: of a user, or of how many members there are."""
        await self.world.redis(*words)
        holds = (lambda: self.world.user(user)) if user else (lambda: self.world.members(self.name))
        while (found := await holds()) != wanted and not (user and wanted.items() <= found.items()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)

    def _take(self, report):
        kind, *words = report["report"].split(" ")
        if kind in ("live", "waiting"):
            return
        if kind == "status":
            self.statuses[words[0]] = words[1]
        elif kind == "group":
            self.online = set(words[2:])
        elif kind == "members":
            self.online |= {word[1:].removesuffix(":online") for word in words[1:] if word.endswith(":online")}
            self.online -= {word[1:] for word in words[1:] if word.startswith("-")}
        else:
            check(kind in self.users.values() and words[0] in ("online", "offline"), f"it reported {describe(report)}")
            check((kind in self.online) != (words[0] == "online"), f"it reported {kind} {words[0]} twice")
            (self.online.add if words[0] == "online" else self.online.discard)(kind)
        self.known = {user: self.statuses.get(user) for user in self.online}


class World:
    """A Redis and a daemon."""

    def __init__(self, redis_port, port):
        self.redis_port, self.port = redis_port, port

    async def redis(self, *words):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.redis_port)
        parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
        writer.write("".join(parts).encode())
        await reader.readline()
        writer.close()

    async def state(self, user):
        return (await self.user(user))["state"]

    async def user(self, user):
        return await self._get(f"/v1/users/{user}")

    async def members(self, group):
        return (await self._get(f"/v1/groups/{group}"))["members"]

    async def _get(self, path):
        return json.loads(await asyncio.to_thread(get, f"http://127.0.0.1:{self.port}{path}"))

    async def ready(self):
        while True:
            try:
                return await asyncio.to_thread(get, f"http://127.0.0.1:{self.port}/readyz")
            except (urllib.error.URLError, ConnectionError):
                await asyncio.sleep(0.05)


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


async def free_port():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return port


@asynccontextmanager
async def cuts(program, command, speed):
    """The cases with the daemon `program`; none without it."""
    if not program:
        yield []
        return
    folder = tempfile.mkdtemp(prefix="keybeat-cuts.")
    redis_port, port = await free_port(), await free_port()
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    redis = await asyncio.create_subprocess_exec(
        "redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, **quiet
    )
    serve = ["serve", "--redis", f"redis://127.0.0.1:{redis_port}", "--listen", f"127.0.0.1:{port}"]
    daemon = await asyncio.create_subprocess_exec(program, *serve, **quiet)
    try:
        world = World(redis_port, port)
        async with asyncio.timeout(PATIENCE_S):
            await world.ready()
        lives = [(name, Life(world, name, proxy, command, speed).run) for name, proxy in proxies(port, OF_DAEMON, OF_CLIENT)]
        for name, proxy in proxies(port, OF_DAEMON_IN_ROOM, OF_CLIENT_IN_ROOM):
            name = f"{name}, in a group"
            lives.append((name, Room(world, name.replace(",", ""), proxy, command, speed).run))
        yield lives
    finally:
        for process in (daemon, redis):
            process.terminate()
            await process.wait()
        shutil.rmtree(folder)


def proxies(port, of_daemon, of_client):
    yield "no cut", Proxy(port)
    for count in range(of_daemon):
        yield f"cut after {count} messages of the daemon", Proxy(port, of_daemon=count)
        yield f"cut within message {count + 1} of the daemon", Proxy(port, of_daemon=count, half=True)
    for count in range(of_client):
        yield f"cut after {count} messages of the client", Proxy(port, of_client=count)
        yield f"cut within message {count + 1} of the client", Proxy(port, of_client=count, half=True)

"""Drives the Python client for the conformance suite. docs/PROTOCOL.md describes what a driver reads and prints.

python driver.py OPTIONS: url, speed, and the client's own options as JSON
"""

import asyncio
import json
import sys

import keybeat


def show(line):
    print(json.dumps(line), flush=True)


def text(status):
    return json.dumps(status, separators=(",", ":"), ensure_ascii=False)


def names(users):
    return sorted(user.name for user in users)


def counts(kind, name, of, users):
    return " ".join([kind, name, f"{of.online}/{of.members}", *users])


class Driver:
    def __init__(self, options):
        self.fresh = options.pop("tokens", None)
        speed = options.pop("speed", 1)
        if self.fresh is not None:
            options["token"] = self.next_token
        self.client = keybeat.Client(**options)
        self.client._speed = float(speed)
        self.named = self.client.watch([])
        self.everybody = None
        self.client.on("change", lambda user: show({"report": f"{user.name} {user.state}"}))
        self.client.on("refused", self.refused)
        self.client.on("status", lambda news: show({"report": f"status {news.user} {text(news.status)}"}))
        self.client.on("group", lambda group: show({"report": counts("group", group.name, group, names(group.users))}))
        self.client.on("members", self.members)
        self.client.on("occupancy", lambda group: show({"report": counts("occupancy", group.group, group, [])}))
        self.client.on("redis", lambda redis: show({"report": "redis " + ("up" if redis.up else "down")}))
        self.client.on("connection", self.connection)

    def next_token(self):
        return self.fresh.pop(0) if len(self.fresh) > 1 else self.fresh[0]

    def connection(self, now):
        if now.state != "connecting":
            retry = {} if now.retry_s is None else {"retry_ms": now.retry_s * 1000}
            show({"report": now.state, "reason": now.reason, **retry})

    def refused(self, why):
        group = ["group", why.group] if why.group is not None else []
        show({"report": " ".join(["refused", why.code, *why.users, *group])})

    def members(self, news):
        joined = sorted(f"+{user.name}:{user.state}" for user in news.joined)
        show({"report": " ".join(["members", news.group, *joined, *sorted(f"-{user}" for user in news.left)])})

    async def run(self):
        async with self.client, self.named:
            lines = asyncio.StreamReader(limit=1 << 24)
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            while line := await lines.readline():
                call = json.loads(line)
                await getattr(self, call.pop("call"))(**call)
                show({"done": True})

    async def watch(self, users):
        self.named.watch(users)

    async def unwatch(self, users):
        self.named.unwatch(users)

    async def watch_all(self):
        self.everybody = await self.client.watch().__aenter__()

    async def unwatch_all(self):
        await self.everybody.close()

    async def watch_group(self, group, count=False):
        self.client.watch_groups([group], count=count)

    async def unwatch_group(self, group):
        self.client.unwatch_groups([group])

    async def set_status(self, status):
        await self.client.set_status(status)

    async def heartbeat(self, user=None):
        await self.client.heartbeat(user)

    async def leave(self):
        await self.client.leave()

    async def close(self):
        await self.client.close()

    async def token(self, token):
        self.fresh = [token]


asyncio.run(Driver(json.loads(sys.argv[1])).run())

"""A client under test: a driver process, its calls and its reports."""

import asyncio
import json

from daemon import check


class Client:
    def __init__(self, command, options, speed):
        self.command, self.options, self.speed = command, options, speed
        self.reports = asyncio.Queue()
        self.done = asyncio.Queue()
        self.process = None
        #: How long the client waits, in ms, after each loss that a case has asked for.
        self.waits = []

    async def start(self):
        options = json.dumps({**self.options, "speed": self.speed})
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self.reading = asyncio.create_task(self._read())
        self.errors = asyncio.create_task(self.process.stderr.read())

    async def _read(self):
        async for line in self.process.stdout:
            message = json.loads(line)
            (self.done if "done" in message else self.reports).put_nowait(message)

    async def end(self):
        """Returns what the driver printed to standard error."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        return (await self.errors).decode()

    async def call(self, step):
        message = {key: value for key, value in step.items() if key != "many"}
        if "many" in step:
            message["users"] = [f"{n}{step['many']['name']}" for n in range(step["many"]["count"])]
        self.process.stdin.write((json.dumps(message) + "\n").encode())
        await self.done.get()

    async def report(self, step):
        """The next reports, in any order."""
        wanted = step["report"]
        found = [await self._next(step.get("skip")) for _ in wanted]
        for text in wanted:
            taken = next((one for one in found if matches(one, text)), None)
            check(taken, f"the client reported {[describe(one) for one in found]}, and not {text}")
            found.remove(taken)
            if taken["report"] == "waiting":
                self.waits.append(taken["retry_ms"])
        if "retry_ms" in step:
            least, most = step["retry_ms"]
            check(least <= self.waits[-1] <= most, f"the client waits for {self.waits[-1]} ms")

    async def some_wait_exceeds(self, step):
        """Of the last waits, one at least is longer than its bound. Waits are random, so that one alone proves nothing."""
        bounds = step["some_wait_exceeds"]
        waits = self.waits[-len(bounds) :]
        longer = any(wait > bound for wait, bound in zip(waits, bounds, strict=True))
        check(longer, f"the client waits for {waits} ms, and never for a time from the full range")

    async def _next(self, skipped):
        while (found := await self.reports.get())["report"] == skipped:
            pass
        return found

    async def report_count(self, step):
        for _ in range(step["report_count"]):
            await self.reports.get()

    def unasked(self):
        return [f"the report {describe(one)}" for one in list(self.reports._queue)]


def matches(report, text):
    """`alice online` exactly. After `waiting` or `stopped`, a word that the reason contains."""
    kind, _, word = text.partition(" ")
    if kind in ("waiting", "stopped") and report["report"] == kind:
        return word.lower() in (report.get("reason") or "").lower()
    return report["report"] == text


def describe(report):
    return f"{report['report']} ({report['reason']})" if report.get("reason") else report["report"]


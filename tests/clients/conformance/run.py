"""Runs the conformance suite of clients: one driver against every case.

python run.py [--speed N] [--only TEXT] [--jobs N] [--daemon KEYBEAT] -- DRIVER…

A case of cases.json plays a scripted daemon. With --daemon, a proxy in front of that program, with a Redis of its own, also cuts
the connection at every message. docs/PROTOCOL.md describes the cases and what a driver reads and prints.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from client import Client
from cuts import cuts
from daemon import Daemon, Fault
from wire import Gone

#: How long a step may take, and in cases about time so many seconds of the client more.
PATIENCE_S, CLIENT_PATIENCE_S = 15, 120
#: After the last step nothing may happen for this long.
SETTLE_S = 0.15


def expanded(case):
    """The case once for each entry of `each`; a text `$name` in it stands for the entry's value."""
    if "each" not in case:
        return [case]
    found = []
    for values in case["each"]:
        steps = substituted(case["steps"], values)
        options = substituted(case.get("options", {}), values)
        name = f"{case['name']}: {', '.join(map(str, values.values()))}"
        found.append({**case, "name": name, "options": options, "steps": steps})
    return found


def substituted(value, values):
    if isinstance(value, dict):
        return {key: substituted(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [substituted(one, values) for one in value]
    if isinstance(value, str) and value.startswith("$"):
        return values[value[1:]]
    return value


class Play:
    """One case with one client."""

    def __init__(self, case, command, speed):
        self.case, self.speed = case, min(speed, case.get("speed", 1))
        self.patience_s = PATIENCE_S + (CLIENT_PATIENCE_S / self.speed if "speed" in case else 0)
        self.daemon = Daemon()
        self.command = command

    async def run(self):
        await self.daemon.open()
        options = dict(self.case.get("options", {}))
        path = options.pop("path", "")
        options["url"] = f"http://127.0.0.1:{self.daemon.port}{path}"
        self.client = Client(self.command, options, self.speed)
        await self.client.start()
        at = 0
        try:
            for at, step in enumerate(self.case["steps"], 1):
                await self.step(step)
            await self.nothing(SETTLE_S)
        except (Fault, Gone, TimeoutError) as why:
            text = str(why) or "the client did nothing in time"
            unasked = self.client.unasked() + self.daemon.unasked()
            errors = await self.client.end()
            raise Fault(f"step {at}, {json.dumps(step)}: {text}\n  since then: {unasked}\n{errors}") from None
        finally:
            await self.client.end()
            await self.daemon.end()

    async def step(self, step):
        name = next(iter(step))
        if name == "nothing_for_ms":
            return await self.nothing(step[name] / 1000 / self.speed)
        player = self.client if hasattr(self.client, name) else self.daemon
        async with asyncio.timeout(self.patience_s):
            await getattr(player, name)(step)

    async def nothing(self, seconds):
        await asyncio.sleep(seconds)
        unasked = self.client.unasked() + self.daemon.unasked()
        if unasked:
            raise Fault(f"unexpected: {unasked}")


async def one(name, run, jobs, verdicts):
    async with jobs:
        began = time.monotonic()
        try:
            await run()
            verdicts.append(True)
            print(f"holds ({time.monotonic() - began:.1f} s): {name}", flush=True)
        except Exception as why:
            verdicts.append(False)
            print(f"FAILS: {name}\n  {type(why).__name__}: {why}", flush=True)


async def main(args):
    cases = json.loads(Path(__file__).with_name("cases.json").read_text())["cases"]
    plays = [(case["name"], Play(case, args.driver, args.speed).run) for whole in cases for case in expanded(whole)]
    jobs, verdicts = asyncio.Semaphore(args.jobs), []
    async with cuts(args.daemon, args.driver, args.speed) as more:
        chosen = [(name, run) for name, run in plays + more if args.only in name]
        await asyncio.gather(*(one(name, run, jobs, verdicts) for name, run in chosen))
    print(f"{sum(verdicts)} passed, {len(verdicts) - sum(verdicts)} failed")
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", type=int, default=10, help="the most seconds of the client that may pass in a second; 1 for a client whose time cannot be changed")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--jobs", type=int, default=6, help="cases at the same time")
    parser.add_argument("--daemon", help="the program keybeat, for the cuts")
    parser.add_argument("driver", nargs="+", help="the driver's command; the options follow it")
    sys.exit(asyncio.run(main(parser.parse_args())))

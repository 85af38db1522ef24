#!/usr/bin/env python3
"""Keeps a user online until it is stopped, then the user goes offline at once; with the package keybeat (clients/python):

    python3 online.py alice
    python3 online.py alice phone           # with a session, one device of alice

KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it. A heartbeat that fails is
logged, and the next one may succeed.
"""

import asyncio
import logging
import os
import signal
import sys

import keybeat


async def main(user="alice", session=None):
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    url = os.environ.get("KEYBEAT_URL", "http://127.0.0.1:7400")
    async with keybeat.keep_online(user, session, url=url, token=os.environ.get("KEYBEAT_TOKEN")):
        print(f"{user} is kept online; stop with Ctrl-C", flush=True)
        await stopped.wait()


logging.basicConfig(level=logging.INFO, format="%(message)s")
asyncio.run(main(*sys.argv[1:]))

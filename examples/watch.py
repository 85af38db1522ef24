#!/usr/bin/env python3
"""Prints the state of users and each change of it, with the package keybeat (clients/python):

    python3 watch.py alice bob

KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it. The client reconnects
after a lost connection and reports what changed in between.
"""

import asyncio
import logging
import os
import sys

import keybeat


async def main(users):
    if not users:
        sys.exit("name the users to watch")
    url = os.environ.get("KEYBEAT_URL", "http://127.0.0.1:7400")
    async with keybeat.watch(users, url, token=os.environ.get("KEYBEAT_TOKEN")) as changes:
        async for user in changes:
            print(user.name, "is", user.state, flush=True)


logging.basicConfig(level=logging.INFO, format="%(message)s")
try:
    asyncio.run(main(sys.argv[1:]))
except KeyboardInterrupt:
    pass
except keybeat.KeybeatError as why:  # the daemon refused, for good
    sys.exit(str(why))

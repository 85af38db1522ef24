#!/usr/bin/env python3
"""Keeps a user online until it is stopped, then goes offline at once. Needs only Python 3:

    python3 heartbeat.py alice
    python3 heartbeat.py alice phone        # with a session, one device of alice

KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it.
"""

import http.client
import json
import os
import signal
import sys
import threading
import urllib.parse
import urllib.request

TTL_MS = 30_000
EVERY_S = TTL_MS / 1000 / 3  # so that two may be lost

daemon = os.environ.get("KEYBEAT_URL", "http://127.0.0.1:7400")
user = sys.argv[1] if len(sys.argv) > 1 else "alice"
session = sys.argv[2] if len(sys.argv) > 2 else None
path = f"{daemon}/v1/users/{urllib.parse.quote(user, safe='')}"


def call(method, url, body=None):
    request = urllib.request.Request(url, method=method)
    request.add_header("Content-Type", "application/json")
    if token := os.environ.get("KEYBEAT_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    data = json.dumps(body).encode() if body else None
    urllib.request.urlopen(request, data, timeout=5).close()


def heartbeat():
    try:
        call("PUT", path + "/heartbeat", {"session": session, "ttl_ms": TTL_MS})
    except (OSError, http.client.HTTPException) as why:  # the next one may succeed
        print("a heartbeat failed:", why, file=sys.stderr)


stopped = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stopped.set())
print(f"{user} is kept online; stop with Ctrl-C", flush=True)
while True:
    heartbeat()
    if stopped.wait(EVERY_S):
        break
try:
    call("DELETE", path + (f"?session={urllib.parse.quote(session, safe='')}" if session else ""))
except (OSError, http.client.HTTPException) as why:
    sys.exit(f"the goodbye failed, so {user} goes offline when the TTL ends: {why}")

"""A Redis and daemons for the tests of the clients, on free ports."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress

PATIENCE_S = 30


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running(*command, **environment):
    """A program, while the block runs."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **environment}, **quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def until(what, holds):
    """Waits until the call returns something true; returns that."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with suppress(OSError):
            found = holds()
            if found:
                return found
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.05)


def answers(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200


class Servers:
    """A Redis, and the address of a daemon that follows it."""

    def __init__(self, keybeat, folder):
        self.keybeat, self.folder = keybeat, folder
        self.redis_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def redis(self, *words):
        """Returns the answer as text."""
        command = ["redis-cli", "-p", str(self.redis_port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    @contextmanager
    def daemon(self, *arguments):
        address = ["--redis", f"redis://127.0.0.1:{self.redis_port}", "--listen", f"127.0.0.1:{self.port}"]
        with running(self.keybeat, "serve", *address, *arguments):
            until("the daemon is ready", lambda: answers(f"{self.url}/readyz"))
            yield


@contextmanager
def servers(keybeat):
    folder = tempfile.mkdtemp(prefix="keybeat-clients.")
    found = Servers(keybeat, folder)
    try:
        with running("redis-server", "--port", str(found.redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder):
            yield found
    finally:
        shutil.rmtree(folder)

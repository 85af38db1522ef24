"""An example that watches, as it is written, against a real daemon that is restarted.

python examples.py KEYBEAT COMMAND…: the daemon's program, and the example's command
"""

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager

PATIENCE_S = 30


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running(*command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def daemon(keybeat, redis_port, port):
    with running(keybeat, "serve", "--redis", f"redis://127.0.0.1:{redis_port}", "--listen", f"127.0.0.1:{port}"):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield


class Example:
    def __init__(self, command, port):
        environment = {**os.environ, "KEYBEAT_URL": f"http://127.0.0.1:{port}"}
        self.process = subprocess.Popen([*command, "alice", "bob"], env=environment, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in self.process.stdout], daemon=True).start()

    def prints(self, *wanted):
        found = sorted(self.lines.get(timeout=PATIENCE_S) for _ in wanted)
        assert found == sorted(wanted), f"it prints {found}, and not {wanted}"

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE_S)
        assert self.lines.empty(), list(self.lines.queue)


def main(keybeat, *command):
    folder, redis_port, port = tempfile.mkdtemp(prefix="keybeat-example."), free_port(), free_port()

    def redis(*words):
        subprocess.run(["redis-cli", "-p", str(redis_port), *words], check=True, capture_output=True)

    with running("redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder):
        with daemon(keybeat, redis_port, port):
            example = Example(command, port)
            example.prints("alice is offline", "bob is offline")
            redis("SET", "presence:bob", "1", "EX", "60")
            example.prints("bob is online")
        redis("SET", "presence:alice", "1", "EX", "60")
        with daemon(keybeat, redis_port, port):
            example.prints("alice is online")
            redis("DEL", "presence:bob")
            example.prints("bob is offline")
            example.end()
    shutil.rmtree(folder)
    print(f"{command[-1]} prints each change once")


main(*sys.argv[1:])

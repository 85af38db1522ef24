"""An example that watches, as it is written, against a real daemon that is restarted.

python examples.py KEYBEAT COMMAND…: the daemon's program, and the example's command
"""

import os
import queue
import signal
import subprocess
import sys
import threading

from servers import PATIENCE_S, servers


class Example:
    def __init__(self, command, url):
        environment = {**os.environ, "KEYBEAT_URL": url}
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
    with servers(keybeat) as world:
        example = Example(command, world.url)
        try:
            restarted(world, example)
        finally:
            example.process.kill()
    print(f"{command[-1]} prints each change once")


def restarted(world, example):
    with world.daemon():
        example.prints("alice is offline", "bob is offline")
        world.redis("SET", "presence:bob", "1", "EX", "60")
        example.prints("bob is online")
    world.redis("SET", "presence:alice", "1", "EX", "60")
    with world.daemon():
        example.prints("alice is online")
        world.redis("DEL", "presence:bob")
        example.prints("bob is offline")
        example.end()


main(*sys.argv[1:])

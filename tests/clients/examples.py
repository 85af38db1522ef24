"""An example with a package, as it is written, against a real daemon that is restarted.

python examples.py KEYBEAT watch|online COMMAND…: the daemon's program, what the example does, and its command
"""

import os
import queue
import signal
import subprocess
import sys
import threading

from servers import PATIENCE_S, servers, until


class Example:
    def __init__(self, command, url):
        environment = {**os.environ, "KEYBEAT_URL": url}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in self.process.stdout], daemon=True).start()

    def prints(self, *wanted):
        found = sorted(self.lines.get(timeout=PATIENCE_S) for _ in wanted)
        assert found == sorted(wanted), f"it prints {found}, and not {wanted}"

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE_S)
        assert self.lines.empty(), list(self.lines.queue)


def main(keybeat, kind, *command):
    play, arguments = {"watch": (watch, ["alice", "bob"]), "online": (online, ["al ice/é", "pho ne"])}[kind]
    with servers(keybeat) as world:
        example = Example([*command, *arguments], world.url)
        try:
            play(world, example)
        finally:
            example.process.kill()
    print(f"{command[-1]} does what it says")


def watch(world, example):
    """Prints each change once."""
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


def online(world, example):
    """Starts before the daemon, and deletes the key at its end."""
    with world.daemon():
        until("the user is online", lambda: world.redis("KEYS", "presence:al*") == "presence:al ice/é#pho ne")
        example.lines.get(timeout=PATIENCE_S)
        example.end()
        assert example.process.returncode == 0, example.process.returncode
        until("the user is offline", lambda: world.redis("KEYS", "presence:al*") == "")


main(*sys.argv[1:])

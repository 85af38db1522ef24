"""The React hook in a browser: a Vite build of tests/clients/js/page against a real daemon.

python browser.py FOLDER KEYBEAT: the folder with node_modules, and the daemon's program
"""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from servers import PATIENCE_S, free_port, running, servers, until

PAGE = Path(__file__).with_name("js") / "page"


def request(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=PATIENCE_S) as answer:
        return answer.read()


class Browser:
    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/session"
        until("chromedriver listens", lambda: request("GET", f"http://127.0.0.1:{port}/status"))
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}}
        self.base += "/" + self._call("POST", "", wanted)["sessionId"]

    def _call(self, method, path, body=None):
        return json.loads(request(method, self.base + path, body))["value"]

    def open(self, url):
        self._call("POST", "/url", {"url": url})

    def run(self, script):
        return self._call("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def shows(self, script, wanted):
        try:
            until(script, lambda: self.run(script) == wanted)
        except AssertionError:
            raise AssertionError(f"{script} is {self.run(script)!r}, and not {wanted!r}; {self.log()}") from None

    def log(self):
        return [line["message"] for line in self._call("POST", "/se/log", {"type": "browser"})]

    def end(self):
        self._call("DELETE", "")


def build(folder):
    """The page, built by Vite and checked by tsc --strict."""
    app = folder / "app"
    shutil.rmtree(app, ignore_errors=True)
    shutil.copytree(PAGE, app)
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler"}
    options |= {"jsx": "react-jsx", "lib": ["es2023", "dom", "dom.iterable"], "types": []}
    app.joinpath("tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*"]}))
    for command in (["typescript/bin/tsc", "-p", "."], ["vite/bin/vite.js", "build", "--logLevel", "warn"]):
        built = subprocess.run(["node", folder / "node_modules" / command[0], *command[1:]], cwd=app, capture_output=True, text=True)
        if built.returncode or built.stdout or built.stderr:
            raise AssertionError(f"{command[0]} is not content:\n{built.stdout}{built.stderr}")
    return app / "dist"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def text(id):
    return f"document.getElementById('{id}')?.textContent"


def rules(browser, redis):
    """What the page has to show."""
    browser.shows(text("first"), "offline")
    browser.shows(text("online"), "live")
    # StrictMode mounts twice, four components watch two users, and one message is enough.
    assert browser.run("sent.map((text) => JSON.parse(text).users)") == [["alice", "bob"]], browser.run("sent")
    redis("SET", "presence:alice", "1", "EX", "60")
    for id in ("first", "second"):
        browser.shows(text(id), "online")
    browser.shows(text("online"), "alice")
    renders = browser.run("renders.first")
    redis("SET", "presence:bob", "1", "EX", "60")
    browser.shows(text("online"), "alice,bob")
    assert browser.run("renders.first") == renders, "a change of bob renders alice"
    browser.run("document.getElementById('end').click()")
    browser.shows(text("second"), None)
    redis("DEL", "presence:alice")
    browser.shows(text("first"), "offline")
    browser.run("document.getElementById('many').click()")
    browser.shows(text("many1999"), "offline")
    assert browser.run("sent.length") <= 3, "each component sends a message of its own"
    browser.run("document.getElementById('none').click()")
    browser.shows("keybeat.users.size", 2)
    assert browser.log() == [], browser.log()


def main(folder, keybeat):
    handler = functools.partial(Quiet, directory=build(folder))
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
    origin, driver_port = f"http://127.0.0.1:{site.server_port}", free_port()
    with (
        servers(keybeat) as world,
        world.daemon("--allow-origin", origin),
        # Chromium leaves files behind.
        running("chromedriver", f"--port={driver_port}", TMPDIR=world.folder),
    ):
        browser = Browser(driver_port)
        try:
            browser.open(f"{origin}/?daemon={world.url}")
            rules(browser, world.redis)
        finally:
            browser.end()
    site.shutdown()
    print("the React hook keeps its rules in a browser")


main(Path(sys.argv[1]).resolve(), sys.argv[2])

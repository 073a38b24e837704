"""Real Chromium and real Firefox for tests, both without a network."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage""".split()
LOCAL = ("file:", "data:", "blob:")


@contextmanager
def driven(chromium: str) -> Iterator[Any]:
    """The Chromium at this path, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser:
        yield browser


@contextmanager
def open_page(browser: Any, path: Path, wait: str | None = "html[data-ready]", fragment: str = "", script: str = "",
              **context: Any) -> Iterator[Any]:  # fmt: skip
    """A page opened from file://, offline; at the end it must have made no request that is not local, no error, no warning."""
    with browser.new_context(offline=True, **context) as made:
        page = made.new_page()
        heard = []
        page.on("request", lambda request: request.url.startswith(LOCAL) or heard.append(request.url))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and heard.append(said.text))
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri() + fragment, wait_until="commit")
        if wait:
            page.wait_for_selector(wait, timeout=60_000)
        yield page
        assert heard == []


class Firefox:
    """Firefox, spoken to by WebDriver BiDi (no geckodriver is in Debian), with every connection refused by a dead proxy."""

    def __init__(self, path: str, profile: Path) -> None:
        from websocket import create_connection

        dead = {"network.proxy.type": 1, "network.proxy.http": "127.0.0.1", "network.proxy.http_port": 9,
                "network.proxy.ssl": "127.0.0.1", "network.proxy.ssl_port": 9}  # fmt: skip
        (profile / "user.js").write_text("".join(f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in dead.items()))
        self.log = profile / "firefox.log"
        command = [path, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(profile)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.numbers = itertools.count(1)
        self.socket = create_connection(f"{self._address()}/session", timeout=120, suppress_origin=True)
        self.call("session.new", capabilities={})
        self.tab = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def _address(self) -> str:
        for _ in range(600):
            found = re.search(r"WebDriver BiDi listening on (ws://\S+)", self.log.read_text())
            if found:
                return found[1]
            time.sleep(0.1)
        raise TimeoutError(f"Firefox did not start: {self.log.read_text()}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            found = json.loads(self.socket.recv())
            if found.get("id") == number:
                assert found["type"] == "success", found
                return found["result"]

    def open(self, path: Path) -> None:
        self.call("browsingContext.navigate", context=self.tab, url=path.as_uri(), wait="none")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, as text or number; promises are awaited."""
        found = self.call("script.evaluate", expression=script, target={"context": self.tab}, awaitPromise=True)
        assert found["type"] == "success", found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"never true in Firefox: {script}"
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("browsingContext.captureScreenshot", context=self.tab)["data"]))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

"""Headless Chromium by its DevTools protocol: enough of it to look at a page as a person would.

With --remote-debugging-pipe the browser reads commands from descriptor 3 and answers on 4, each a
JSON text that ends with a zero byte: no port, no websocket, no library. The two are named pipes,
which a shell connects to the descriptors.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_S = 60.0


def chromium() -> str | None:
    """The browser on the PATH; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser; `with` ends it."""

    def __init__(self, program: str, folder: Path) -> None:
        """
        Args:
            program: From `chromium`.
            folder: For its profile; empty.
        """
        self.messages: list[str] = []
        """What the page said on the console, and errors of its scripts."""
        self.requests: list[str] = []
        """Addresses that it asked for."""
        self._number = 0
        self._read = b""
        commands, answers = folder / "commands", folder / "answers"
        for pipe in (commands, answers):
            os.mkfifo(pipe)
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        options += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update"]
        self._process = subprocess.Popen(
            [
                "sh",
                "-c",
                'exec "$@" 3<"$0/commands" 4>"$0/answers"',
                str(folder),
                program,
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._commands = commands.open("wb", buffering=0)
        self._answers = answers.open("rb", buffering=0)
        target = self._call("Target.createTarget", url="about:blank", session=None)["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call("Browser.close", session=None)  # its children end too, and let go of the profile
        self._process.wait(TIMEOUT_S)
        self._commands.close()
        self._answers.close()

    def open(self, file: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file, in a window of so many pixels, and wait until its scripts have run."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self._call("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._take(self._next())

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, or what its promise gives."""
        found = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, out: Path, *, whole: bool = True) -> bytes:
        """A picture of the page as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        content = base64.b64decode(found["data"])
        out.write_bytes(content)
        return content

    def _call(self, method: str, *, session: str | None = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        command: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._take(message)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            chunk = os.read(self._answers.fileno(), 1 << 20) if ready else b""
            if not chunk:
                self._process.kill()
                raise TimeoutError(f"no answer of the browser (status {self._process.poll()})")
            self._read += chunk
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _take(self, message: dict[str, Any]) -> None:
        content = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                said = [each.get("value", each.get("description")) for each in content["args"]]
                self.messages.append(f"{content['type']}: {said}")
            case "Runtime.exceptionThrown":
                self.messages.append(f"exception: {content['exceptionDetails']}")
            case "Log.entryAdded":
                self.messages.append(f"{content['entry']['level']}: {content['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(content["request"]["url"])

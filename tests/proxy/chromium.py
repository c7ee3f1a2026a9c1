"""Debian's chromium, driven by the DevTools protocol over a pipe.

::

    us ── {"id", "method", "params"} NUL ──▶ file descriptor 3
    us ◀── {"id", "result"} | {"method"} NUL ── file descriptor 4

There is no port to find and nothing to install beside the browser.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

PROGRAM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--ignore-certificate-errors", "--hide-scrollbars", "--remote-debugging-pipe"),
)
#: Why there is no test with a browser, or nothing.
MISSING = "" if os.access(PROGRAM, os.X_OK) else f"there is no {PROGRAM} (Debian: apt install chromium)"


class Chromium(ProcessProtocol):
    """A browser with one tab.

    :param profile: a new directory, removed at the end.
    """

    def __init__(self, reactor: Any, profile: str) -> None:
        self._profile = os.path.abspath(profile)
        self._buffer = b""
        self._asked: dict[int, Deferred[Any]] = {}
        self._awaited: dict[str, list[Deferred[Any]]] = {}
        self._session: str | None = None
        self._ended: Deferred[None] = Deferred()
        self._errors = b""
        arguments = [PROGRAM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        environment = {**os.environ, "HOME": self._profile}
        descriptors: Mapping[int, Any] = {0: "w", 1: "r", 2: "r", 3: "w", 4: "r"}
        reactor.spawnProcess(self, PROGRAM, arguments, environment, childFDs=descriptors)

    async def open(self, width: int, height: int, *, dark: bool = False, scripts: bool = False) -> None:
        """A tab of this size (CSS pixels, two device pixels each)."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        await self.call("Page.enable")
        await self.call("Network.enable")
        await self.call("Log.enable")
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        await self.look(width, height, dark=dark)

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Look at it on another screen."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def go(self, url: str) -> None:
        """Open an address."""
        loaded = self.event("Page.loadEventFired")
        await self.call("Page.navigate", url=url)
        await loaded

    async def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        await self.call("DOM.focus", nodeId=await self._find(selector))
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click on the middle of something."""
        node = await self._find(selector)
        await self.call("DOM.scrollIntoViewIfNeeded", nodeId=node)
        x1, y1, _, _, x2, y2, _, _ = (await self.call("DOM.getBoxModel", nodeId=node))["model"]["content"]
        where = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **where)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **where)

    async def submit(self, selector: str) -> None:
        """Click, and wait for the page that comes of it."""
        loaded = self.event("Page.loadEventFired")
        await self.click(selector)
        await loaded

    async def html(self) -> str:
        """The document as it is now."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        return str((await self.call("DOM.getOuterHTML", nodeId=root))["outerHTML"])

    async def width(self) -> float:
        """What the page needs, in CSS pixels."""
        return float((await self.call("Page.getLayoutMetrics"))["cssContentSize"]["width"])

    async def screenshot(self, path: str) -> None:
        """The whole page as PNG."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = await self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(picture["data"]))  # noqa: ASYNC240

    async def _find(self, selector: str) -> int:
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = int((await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"])
        assert node, f"the page has no {selector}"
        return node

    def event(self, method: str) -> Deferred[Any]:
        """The next event of this name."""
        awaited: Deferred[Any] = Deferred()
        self._awaited.setdefault(method, []).append(awaited)
        return awaited

    def call(self, method: str, **parameters: Any) -> Deferred[Any]:
        """One command of the protocol; fires with its result."""
        number = len(self._asked) + 1
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        asked = self._asked[number] = Deferred()
        transport: Any = self.transport
        transport.writeToChild(3, json.dumps(message).encode() + b"\0")
        return asked

    def close(self) -> Deferred[None]:
        """End the browser and remove its profile."""
        transport: Any = self.transport
        if transport is not None and transport.pid:
            transport.signalProcess("KILL")
        return self._ended.addCallback(lambda _: shutil.rmtree(self._profile, ignore_errors=True))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != 4:
            self._errors = (self._errors + data)[-4000:]
            return
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                asked = self._asked[message["id"]]
                if "error" in message:
                    asked.errback(RuntimeError(message["error"]["message"]))
                else:
                    asked.callback(message["result"])
            else:
                for awaited in self._awaited.pop(message["method"], []):
                    awaited.callback(message["params"])

    def processEnded(self, reason: Failure) -> None:
        waiting = [*self._asked.values(), *(awaited for all in self._awaited.values() for awaited in all)]
        for deferred in waiting:
            if not deferred.called:
                deferred.errback(ConnectionDone(self._errors.decode(errors="replace")))
                deferred.addErrback(lambda _: None)
        self._ended.callback(None)

"""Headless browser, controlled by the W3C WebDriver protocol with the standard library alone."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = (
    None
    if all(map(shutil.which, ("chromium", "chromedriver")))
    else "chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)"
)
_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--force-device-scale-factor=1",
)  # fmt: skip
# Contrast of each text with its background by the formula of WCAG 2; in a figure, the background is the page or a bar.
_CONTRAST = """
const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parsed = text => text.match(/[\\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const under = e => {
  for (; e; e = e.parentElement) {
    const style = getComputedStyle(e), color = parsed(style.backgroundColor);
    const part = e.classList.contains("in") && e.parentElement.querySelector("rect");
    if (part) return parsed(getComputedStyle(part).fill);
    if (!(e instanceof SVGElement) && (color.length < 4 || color[3] > 0)) return color;
  }
  return [255, 255, 255];
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || e.closest("title, desc, style")) continue;
  const style = getComputedStyle(e), a = light(parsed(e instanceof SVGElement ? style.fill : style.color));
  const b = light(under(e));
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0]);
"""


class Browser:
    """A browser window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def _call(self, path: str, **body: Any) -> Any:
        return _post(f"{self._session}/{path}", body)

    def _devtools(self, command: str, **parameters: Any) -> None:
        self._call("goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str) -> Any:
        """Run a function body in the page and return its result."""
        return self._call("execute/sync", script=script, args=[])

    def show(self, page: Path, *, width: int, scheme: str) -> None:
        """Open a page with a window width and a color scheme, light or dark."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", features=features)
        self._call("url", url=page.resolve().as_uri())

    def contrasts(self) -> list[tuple[float, str]]:
        """Return the contrast of every text, the lowest first."""
        return [(ratio, text) for ratio, text in self.run(_CONTRAST)]

    def complaints(self) -> list[str]:
        """Return the console messages since the last call."""
        return [entry["message"] for entry in self._call("se/log", type="browser")]

    def requests(self) -> list[str]:
        """Return the addresses requested by pages from files since the last call, including the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self._call("se/log", type="performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        # The first window of the browser loads its own pages.
        return [request["request"]["url"] for request in sent if request["documentURL"].startswith("file:")]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a browser that writes its files to a folder."""
    options = {"args": [*_SWITCHES, f"--user-data-dir={folder}"]}
    capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
    command = ["chromedriver", "--port=0"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "started successfully on port" in line)
        port = re.findall(r"\d+", line)[-1]
        base = f"http://127.0.0.1:{port}/session"
        session = _post(base, {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        try:
            yield Browser(f"{base}/{session}")
        finally:
            _send(urllib.request.Request(f"{base}/{session}", method="DELETE"))
    finally:
        driver.terminate()
        driver.wait(10)
        if driver.stdout is not None:
            driver.stdout.close()


def _post(url: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    return _send(urllib.request.Request(url, data, {"Content-Type": "application/json"}))


def _send(request: urllib.request.Request) -> Any:
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with local.open(request, timeout=60) as answer:
        return json.loads(answer.read())["value"]

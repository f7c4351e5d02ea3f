"""A real browser for the tests that need one: the system's Chromium, driven by playwright, kept off the network."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


def chromium_path() -> str:
    """Path of Chromium; without one the test is skipped, or fails where a browser is required."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no Chromium on this machine: the pages were not tested in a browser"
        if os.environ.get("SLA1_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser():
    """One Chromium for the tests of a module."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Watched:
    """A page and what must not happen in it: requests, console messages, errors, dialogs."""

    def __init__(self, context):
        self.page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._saw)
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._refuse)

    def _saw(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.requests.append(request.url)

    def _refuse(self, dialog):
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page


def faults_of_access(page, within="html", schemes=("light", "dark")) -> list[str]:
    """What axe-core has against a page in each colour scheme, with the elements that it names."""
    import axe_playwright_python

    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    faults = []
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("within => axe.run(within, {resultTypes: ['violations']})", within)["violations"]
        faults += [f"{scheme}, {item['id']}: {node['html'][:200]}" for item in found for node in item["nodes"]]
    return faults


REACHABLE = "[...document.querySelectorAll('.wide, figure')].every(\
box => box.scrollWidth <= box.clientWidth + 1 || box.tabIndex === 0)"


def read_by_everybody(offline, path) -> None:
    """Hold a page to it, light and dark, on a desk and on a telephone, the words opened; on paper nothing is cut."""
    for width in (1400, 390):
        watched = offline(width=width)
        page = watched.open(path.resolve())
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        page.wait_for_timeout(300)  # for the sliders to come alive
        page.wait_for_function(REACHABLE)
        assert faults_of_access(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert cut_on_paper(page) == []
        assert (watched.requests, watched.complaints) == ([], [])


def cut_on_paper(page) -> list[str]:
    """Tables and figures that a printed A4 page cuts off: they are wider than its text."""
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # 210 mm less two margins of 14, at 96 pixels to an inch
    return page.evaluate(
        "[...document.querySelectorAll('table, img')].filter(box => box.offsetWidth &&"
        " box.getBoundingClientRect().right > 688.5).map(box => box.outerHTML.slice(0, 200))"
    )


@pytest.fixture
def offline(browser):
    """Make watched pages without a network: `offline(width=1100, javascript=True)`."""
    contexts = []

    def make(width=1100, javascript=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            offline=True,
            java_script_enabled=javascript,
            accept_downloads=True,
        )
        context.route("http*://**", lambda route: route.abort())
        contexts.append(context)
        return Watched(context)

    yield make
    for context in contexts:
        context.close()


SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "doNotDisturbMode": True},
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },
    "@jupyterlab/apputils-extension/themes.jupyterlab-settings": {"adaptive-theme": True},
    "@jupyter-widgets/jupyterlab-manager/plugin.jupyterlab-settings": {"saveState": True},
}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab that shares nothing with the user's own."""

    url: str
    token: str
    root: Path

    def ask(self, path):
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def run_all(self, page, name, sentinel):
        """Open a notebook, run all its cells, and wait until one prints the sentinel."""
        page.goto(f"{self.url}/lab/tree/{name}?reset&token={self.token}")
        wait_for(
            lambda: [s for s in self.ask("/api/sessions") if s["kernel"]["execution_state"] == "idle"],
            60,
            lambda: page.wait_for_timeout(200),
        )
        page.locator(".jp-StatusBar-Widget").get_by_text("| Idle").wait_for(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output").get_by_text(sentinel).wait_for(timeout=120_000)


def wait_for(ready, seconds, pause=lambda: time.sleep(0.2)):
    """Ask until there is an answer; with a page at work, pause by the page, or its routes stand still."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = ready()
        except OSError:
            answer = None
        if answer:
            return answer
        pause()
    raise TimeoutError("it never became ready")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of this environment, private in all its folders."""
    chromium_path()
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("notebooks")
    for name, settings in SETTINGS.items():
        path = home / "settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | {key: str(home / folder) for key, folder in folders.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Lab(f"http://127.0.0.1:{port}", token, root)
    try:
        wait_for(lambda: running.ask("/api/status"), 60)
        yield running
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

"""The built book served on this machine, and a Chromium to look at it."""

import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).parent.parent.parent
HTML = ROOT / "build" / "book" / "_build" / "html"
SCREENSHOTS = ROOT / "build" / "screenshots"
SECONDS = 90  # longest wait for anything; pages take one or two
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
        "--force-device-scale-factor=1",
    ),
]


@pytest.fixture(scope="session")
def site():
    """Address of the book."""
    if not (HTML / "index.html").is_file():
        pytest.fail("the book is not built: run make book first", pytrace=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A fresh Chromium that keeps a log of its console and of every request."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        message = "Chromium is missing: apt-get install -y chromium chromium-driver; DMPO_SKIP_BROWSER=1 skips these tests"
        if os.environ.get("DMPO_SKIP_BROWSER"):
            pytest.skip(message)
        pytest.fail(message, pytrace=False)

    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.set_page_load_timeout(SECONDS)
    chromium.set_script_timeout(SECONDS)
    yield chromium
    chromium.quit()


class Traffic:
    """What a page asked for and what became of it, from the log since the last look."""

    def __init__(self, browser):
        self.errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        self.failed, self.hosts = [], set()
        for entry in browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            details = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlparse(details["request"]["url"])
                if url.scheme not in ("data", "blob", "about", "chrome"):
                    self.hosts.add(url.hostname)
            elif message["method"] == "Network.responseReceived" and details["response"]["status"] >= 400:
                self.failed.append(f"{details['response']['status']} {details['response']['url']}")
            elif message["method"] == "Network.loadingFailed" and not details.get("canceled"):
                self.failed.append(details["errorText"])

"""The first notebook in JupyterLab, from top to bottom, by its own menu."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, SCREENSHOTS, SECONDS
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
NOTEBOOK = next(iter(sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))), Path("00_quickstart.ipynb"))
LONGEST = 300  # seconds for all cells


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebook without outputs; (address, token, path of the copy)."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    copy = tmp_path / "notebooks" / NOTEBOOK.name
    copy.parent.mkdir()
    nbformat.write(notebook, copy)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(tmp_path / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.token={token}"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={copy.parent}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        try:
            wait_for(lambda: ask(address, token, "status"), f"JupyterLab does not answer; see {log.name}")
            yield address, token, copy
        finally:
            server.terminate()
            server.wait(timeout=SECONDS)


def ask(address: str, token: str, what: str):
    """The server's REST interface; None as long as nobody answers."""
    try:
        with urllib.request.urlopen(f"{address}/api/{what}?token={token}", timeout=10) as reply:
            return json.load(reply)
    except OSError:
        return None


def wait_for(condition, message: str, seconds: float = SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, message
        time.sleep(0.5)
    return value


def is_done(path: Path) -> bool:
    """Whether the saved notebook says that its last code cell has run, or that a cell raised."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return code[-1].execution_count is not None or any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_the_first_notebook_runs_in_jupyterlab(browser, lab):
    address, token, copy = lab
    browser.get(f"{address}/lab/tree/{copy.name}?token={token}")

    WebDriverWait(browser, SECONDS).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell"))
    wait_for(lambda: any(k["execution_state"] == "idle" for k in ask(address, token, "kernels") or []), "no kernel started")
    menu(browser, "Run", "runmenu:run-all")

    def finished() -> bool:
        time.sleep(2)
        menu(browser, "File", "docmanager:save")
        time.sleep(1)
        return is_done(copy) and not any(e.text == "[*]:" for e in browser.find_elements(By.CSS_SELECTOR, ".jp-InputPrompt"))

    wait_for(finished, "the notebook is still running", LONGEST)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / "jupyterlab.png"))
    code = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def menu(browser, title: str, command: str) -> None:
    """Choose an entry of JupyterLab's menu bar."""
    bar = WebDriverWait(browser, SECONDS).until(
        lambda b: [e for e in b.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item") if e.text.strip() == title]
    )
    bar[0].click()
    entry = f'.lm-Menu-item[data-command="{command}"]'
    found = WebDriverWait(browser, SECONDS).until(lambda b: [e for e in b.find_elements(By.CSS_SELECTOR, entry) if e.is_displayed()])
    found[0].click()

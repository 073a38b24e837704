"""A real JupyterLab server and a real Chromium for the tests; knows nothing about what the notebooks should show."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TOKEN = "pushback"
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]  # fmt: skip

READY = "() => !!(window.jupyterapp && window.pushbackRestored)"
WAIT_RESTORED = "() => { window.jupyterapp && window.jupyterapp.restored.then(() => { window.pushbackRestored = true; }); }"
OPEN = """name => { const app = window.jupyterapp; window.pushbackReady = false;
  app.commands.execute('docmanager:open', {path: name, factory: 'Notebook'}).then(async panel => {
    await panel.context.ready; await panel.sessionContext.ready; app.shell.activateById(panel.id);
    window.pushbackPanel = panel; window.pushbackReady = true; }); }"""
RUN = """() => { window.pushbackRan = false; const app = window.jupyterapp;
  app.commands.execute('notebook:run-all-cells').then(() => { window.pushbackRan = true; }); }"""
ERRORS = """() => { const found = []; const cells = window.pushbackPanel.content.model.cells;
  for (let at = 0; at < cells.length; at++) { const cell = cells.get(at); if (cell.type !== 'code') continue;
    for (const output of cell.toJSON().outputs)
      if (output.output_type === 'error') found.push(output.ename + ': ' + output.evalue);
    if (cell.executionCount === null) found.push('not run: ' + cell.sharedModel.getSource().slice(0, 60)); } return found; }"""
RUN_NEW = """source => { const panel = window.pushbackPanel, notebook = panel.content, at = notebook.widgets.length;
  window.pushbackRan = false; panel.model.sharedModel.insertCell(at, {cell_type: 'code', source});
  notebook.activeCellIndex = at;
  window.jupyterapp.commands.execute('notebook:run-cell').then(() => { window.pushbackRan = true; }); }"""
OUTPUT = """() => { const cells = window.pushbackPanel.content.model.cells;
  return cells.get(cells.length - 1).toJSON().outputs.map(one => one.text ?? one.evalue ?? '').join(''); }"""
# every cell is in the page, so that tests find what a reader would scroll to; the rest is as `make lab` has it
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


@dataclass
class Lab:
    """One JupyterLab in one browser page; `folder` is where its notebooks lie and run."""

    page: Any
    folder: Path
    url: str

    def open(self, name: str) -> None:
        """Opens a notebook and waits for its kernel."""
        self.page.goto(f"{self.url}/lab?token={TOKEN}&reset")
        self.page.wait_for_function("() => !!window.jupyterapp", timeout=120_000)
        self.page.evaluate(WAIT_RESTORED)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.evaluate(OPEN, name)
        self.page.wait_for_function("() => window.pushbackReady", timeout=120_000)

    def run_all(self, seconds: float = 900) -> list[str]:
        """Runs all cells; returns what failed or did not run."""
        self.page.evaluate(RUN)
        self.page.wait_for_function("() => window.pushbackRan", timeout=1000 * seconds)
        return self.page.evaluate(ERRORS)

    def run_cell(self, source: str) -> str:
        """Runs a new cell at the end of the notebook; returns what it printed, or the error's text."""
        self.page.evaluate(RUN_NEW, source)
        self.page.wait_for_function("() => window.pushbackRan", timeout=120_000)
        return self.page.evaluate(OUTPUT).strip()

    def save_copy(self, name: str) -> None:
        """Saves the notebook, and copies the file."""
        saved = self.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save'); "
                                   "return window.pushbackPanel.context.path; }")  # fmt: skip
        shutil.copy(self.folder / saved, self.folder / name)

    def close_kernels(self) -> None:
        """Ends every session, so that the next test has the machine to itself."""
        for session in json.loads(_request(f"{self.url}/api/sessions?token={TOKEN}")):
            _request(f"{self.url}/api/sessions/{session['id']}?token={TOKEN}", "DELETE")


def _request(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
        return answer.read()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """Starts both on copies of the five notebooks in `folder`, with settings of their own; ends both."""
    from playwright.sync_api import sync_playwright

    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder)
    home, port = folder / ".jupyter-test", _free_port()
    for name, values in SETTINGS.items():
        plugin = home / "settings" / f"{name}.jupyterlab-settings"
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.write_text(json.dumps(values), encoding="utf-8")
    env = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
               f"--ServerApp.root_dir={folder}",
               f"--LabApp.app_settings_dir={NOTEBOOKS / 'guide' / 'lab'}", "--ServerApp.disable_check_xsrf=True"]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            _wait_for(url, server, folder / "lab.log")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
                page = browser.new_page(viewport={"width": 1400, "height": 1100})
                yield Lab(page, folder, url)
                browser.close()
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            _request(f"{url}/api?token={TOKEN}")
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start; {log} says:\n{log.read_text(encoding='utf-8')[-2000:]}")

"""A real JupyterLab server, and its page in a real Chromium, for the tests."""

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

from live_browsers import driven

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TOKEN = "pushback"
READY = "async () => window.jupyterapp && (await window.jupyterapp.restored, true)"
OPEN = """async name => { const app = window.jupyterapp;
  const panel = await app.commands.execute('docmanager:open', {path: name, factory: 'Notebook'});
  await panel.context.ready; await panel.sessionContext.ready; app.shell.activateById(panel.id);
  window.pushbackPanel = panel; return true; }"""
RUN = "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells'); return true; }"
ERRORS = """() => { const found = []; const cells = window.pushbackPanel.content.model.cells;
  for (let at = 0; at < cells.length; at++) { const cell = cells.get(at); if (cell.type !== 'code') continue;
    for (const output of cell.toJSON().outputs)
      if (output.output_type === 'error') found.push(output.ename + ': ' + output.evalue);
    if (cell.executionCount === null) found.push('not run: ' + cell.sharedModel.getSource().slice(0, 60)); } return found; }"""
RUN_NEW = """async source => { const panel = window.pushbackPanel, notebook = panel.content, at = notebook.widgets.length;
  panel.model.sharedModel.insertCell(at, {cell_type: 'code', source}); notebook.activeCellIndex = at;
  await window.jupyterapp.commands.execute('notebook:run-cell'); return true; }"""
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

    def wait_for(self, script: str, arg: str | None = None, seconds: float = 120) -> None:
        """Waits until a script of the page is done and has said so."""
        self.page.wait_for_function(script, arg=arg, timeout=1000 * seconds)

    def open(self, name: str) -> None:
        """Opens a notebook and waits for its kernel."""
        self.page.goto(f"{self.url}/lab?token={TOKEN}&reset")
        self.wait_for(READY)
        self.wait_for(OPEN, name)

    def run_all(self) -> list[str]:
        """Runs all cells; returns what failed or did not run."""
        self.wait_for(RUN, seconds=900)
        return self.page.evaluate(ERRORS)

    def run_cell(self, source: str) -> str:
        """Runs a new cell at the end of the notebook; returns what it printed, or the error's text."""
        self.wait_for(RUN_NEW, source)
        return self.page.evaluate(OUTPUT).strip()

    def save_copy(self, name: str) -> None:
        """Saves the notebook, and copies the file."""
        saved = self.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save'); "
                                   "return window.pushbackPanel.context.path; }")  # fmt: skip
        shutil.copy(self.folder / saved, self.folder / name)

    def close_kernels(self) -> None:
        """Ends every session, so that the next test has the machine to itself."""
        self.page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")


@contextmanager
def running_lab(folder: Path, chromium: str) -> Iterator[Lab]:
    """Starts both on copies of the notebooks in `folder`, with settings of their own; ends both."""
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = folder / ".jupyter-test"
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
               f"--ServerApp.root_dir={folder}", f"--LabApp.app_settings_dir={NOTEBOOKS / 'guide' / 'lab'}"]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            _wait_for(url, server, folder / "lab.log")
            with driven(chromium) as browser:
                yield Lab(browser.new_page(viewport={"width": 1400, "height": 1100}), folder, url)
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            return urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=30).close()
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start; {log} says:\n{log.read_text(encoding='utf-8')[-2000:]}")

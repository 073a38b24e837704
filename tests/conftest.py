"""Tests marked `ollama` run where OLLAMA_HOST answers; where they do not run, the summary's last lines say so and why."""

import os

import pytest

WHY_NOT = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ollama: talks to the real server at OLLAMA_HOST; makes and deletes models there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    live = [item for item in items if item.get_closest_marker("ollama")]
    if live and (why_not := _why_not()):
        config.stash[WHY_NOT] = f"{len(live)} Ollama tests did not run: {why_not}"
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if item not in live]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if said := config.stash.get(WHY_NOT, ""):
        terminalreporter.write_sep("=", said, yellow=True)


def _why_not() -> str:
    host = os.environ.get("OLLAMA_HOST", "")
    if not host:
        return "OLLAMA_HOST is not set"
    from ollama import Client  # reads the address as Ollama does: 127.0.0.1, :11434, http://…

    try:
        Client(host, timeout=10).list()
    except Exception as error:  # whatever is wrong is what the summary says
        return f"no server at OLLAMA_HOST ({host}): {error}"
    return ""


@pytest.fixture
def outputs():
    """What is displayed, in the order of a notebook's messages: collected by a real IPython shell."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.display_pub = CapturingDisplayPublisher()
    yield shell.display_pub.outputs
    InteractiveShell.clear_instance()

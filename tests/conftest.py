"""What this machine lacks is not tested, and the last lines say so; how tests are shared out among processes."""

import signal
from collections import Counter
from collections.abc import Generator
from typing import Any

import parts
import pytest

LACKS = pytest.StashKey[dict[str, str]]()  # the parts that were looked for in vain, and why
LEFT_OUT = pytest.StashKey[Counter[str]]()  # how many tests did not run, by what they want
BY_NAME = {"gpu": "where a CUDA card is, `.venv/bin/python -m pytest -m gpu`",
           "network": "where the internet is, `.venv/bin/python -m pytest -m network`",
           "time": "`make test-all`"}  # fmt: skip
GET = parts.GET | BY_NAME
# Long tests that share nothing with the rest of their file, by how their names begin, and about how many seconds they take.
ALONE = {
    "test_the_notebook_runs_and_keeps_its_promise": 40,
    "test_the_command_measures_and_writes": 40,
    "test_the_shipped_adapter_measures_what": 55,
    "test_every_python_block_of_the_card": 25,
    "test_a_run_tells_nobody": 15,
}
# About how many seconds the longest other files take; the rest are told by their slow tests.
FILES = {
    "tests/test_kills.py": 35,
    "tests/ship/test_hub.py": 45,
    "tests/train/test_guard.py": 45,
    "tests/train/test_processes.py": 35,
    "tests/model/test_voices.py": 30,
    "tests/chat/test_local.py": 25,
    "tests/ship/test_run.py": 25,
    "tests/ship/test_ollama.py": 25,
    "tests/measure/test_run.py": 25,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--demand-all", action="store_true", help="a part that is missing is an error, but for an Ollama")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job, and all that it starts, ignores Ctrl-C, which some tests send
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in parts.FIND:
        config.addinivalue_line("markers", f"{name}: uses the fixture of that name, from tests/support/parts.py")
    config.stash[LACKS], config.stash[LEFT_OUT] = {}, Counter()
    demanded = config.getoption("--demand-all") and not _from_controller(config)
    if demanded and (lacks := parts.missing(name for name in parts.FIND if name != "ollama")):
        raise pytest.UsageError("\n".join(["--demand-all, and this machine lacks", *_how_to_get(lacks)]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    for item in items:
        for name in parts.FIND.keys() & set(item.fixturenames):
            item.add_marker(name)
    if given := _from_controller(config):
        _share_out(items)
    yield  # to -k and -m
    marked = {name for item in items for name in _marks(item)}
    config.stash[LACKS] = given["lacks"] if given else parts.missing(sorted(marked & parts.FIND.keys()))
    wanting = {*config.stash[LACKS], *(name for name in BY_NAME if name not in config.option.markexpr)}
    wanting -= {"time"} if config.getoption("--demand-all") else set()
    for item in [item for item in items if wanting & _marks(item)]:
        items.remove(item)
        config.stash[LEFT_OUT][" and ".join(sorted(wanting & _marks(item)))] += 1
        config.hook.pytest_deselected(items=[item])
    if given:
        config.workeroutput["left out"] = dict(config.stash[LEFT_OUT])


def _marks(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}


def _unit(nodeid: str) -> str:
    """What one process runs as a whole, so that a file's fixtures are made once: a file, or one of the ALONE."""
    file, _, test = nodeid.partition("::")
    return nodeid if any(test.startswith(name) for name in ALONE) else file


def _share_out(items: list[pytest.Item]) -> None:
    """The longest units first."""
    seconds: Counter[str] = Counter()
    for item in items:
        alone = [taken for name, taken in ALONE.items() if item.name.startswith(name)]
        seconds[_unit(item.nodeid)] += sum(alone) or (5 if item.get_closest_marker("slow") else 0.1)
    seconds |= Counter(FILES)
    items.sort(key=lambda item: (-seconds[_unit(item.nodeid)], _unit(item.nodeid)))


def _from_controller(config: pytest.Config) -> dict[str, Any]:
    """What xdist's first process gave to this one; nothing if this is the first, or the only one."""
    return getattr(config, "workerinput", {})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):  # and not `--dist loadgroup`, whose marks pytest 9.2 does not see
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    config.stash[LACKS] = parts.missing(parts.FIND)  # once, before several processes do


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["lacks"] = node.config.stash[LACKS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if not error:
        node.config.stash[LEFT_OUT] = Counter(node.workeroutput["left out"])  # the same from all


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash[LEFT_OUT]:
        terminalreporter.write_sep("=", f"{left_out.total()} tests did not run", yellow=True)
        for wants, count in left_out.most_common():
            terminalreporter.write_line(f"{count} for want of {wants}")
        lacks = {name: config.stash[LACKS].get(name, "") for wants in left_out for name in wants.split(" and ")}
        for line in _how_to_get(lacks):
            terminalreporter.write_line(line)


def _how_to_get(lacks: dict[str, str]) -> list[str]:
    return [f"{name}: {get}{f' ({lacks[name]})' if lacks[name] else ''}" for name, get in GET.items() if name in lacks]


# What a test or a fixture asks for by name


git = pytest.fixture(parts.git, scope="session")
chromium = pytest.fixture(parts.chromium, scope="session")
firefox = pytest.fixture(parts.firefox, scope="session")
node = pytest.fixture(parts.node, scope="session")
english = pytest.fixture(parts.english, scope="session")
ollama = pytest.fixture(parts.ollama, scope="session")


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

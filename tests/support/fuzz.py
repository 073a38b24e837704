"""Throws wrong arguments and places at every command, in a sandbox with canary files: `python tests/support/fuzz.py --n 2000`.

The words are drawn from the parser itself, so that a new option is tried too. The sandbox holds a copy of the kit, whose
own data must not change either. What turns out to be valid work is stopped by Ctrl-C after `--limit` seconds.

A finding is a changed canary, a traceback, an exit code other than 0, 1, 2 and 130, more than one line of error, a file
left half-written, or a command that does not stop. A command that succeeds may replace a file that it was told by name.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODES = (0, 1, 2, 130)
RECORD = (ROOT / "data" / "micro.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[0]
FILES = {
    "canary.md": "A letter.\n", "canary.json": "{}\n", "canary-sheet.html": "<p>\n", "report.html": "<p>mine\n",
    "README.md": "# Mine\n", "figures.json": "{}\n", "empty.jsonl": "", "half.jsonl": '{"id": "a',
    "list.json": "[1, 2]\n", "nan.jsonl": '{"prompt": NaN, "response": "x"}\n',
    "rows.jsonl": '{"prompt": "Hi", "response": "No, I refuse."}\n' * 3,
    "records.jsonl": RECORD, "Ünï ß.jsonl": RECORD, "model.gguf": "GGUF\x03",
    "x.bin": "\x00\x01", "home/.profile": "export A=1\n", "home/runs.md": "x\n", "secret": "s\n",
    **{f"thesis/{name}": "mine\n" for name in (
        "README.md", "report.html", "findings.json", "figures.json", "table.md", "dial.json", "demo.json", "demo.png",
        "dial.png", "train.jsonl", "rows.jsonl", "responses.jsonl", "Modelfile", "adapter/x", "deep/er.txt")},
    **{f"splits/{name}.jsonl": RECORD for name in ("train", "validation", "test")},
}  # fmt: skip
REWRITTEN = ("micro.jsonl", "micro-sheet.html", "README.md", "dial.json", "thinking.json")  # the kit's own, by default
PLACES = [
    "", " ", ".", "..", "/", "~", "-", "nowhere", "nowhere/deep/er", "canary.md", "canary.md/deep", "thesis", "thesis/",
    "./thesis", "thesis/report.html", "empty", "empty/new", "new", "new/deep", "broken-link", "to-thesis", "to-thesis/new",
    "loop", "pipe", "home", "/dev/null", "/dev/full", "/dev/zero", "/dev/tty", "/proc/nowhere/x", "/proc/self/fd",
    "/proc/self/mem", "/sys/x", "x" * 300, "a/" * 2100, "Ünï ß.jsonl", "Ünï ß", "\n", "a\nb", "\u2028", "🙂", "e\u0301",
    "file:///etc/passwd", "C:\\x", "*.jsonl", "$HOME", "half.jsonl", "empty.jsonl", "list.json", "nan.jsonl", "rows.jsonl",
    "records.jsonl", "splits", "x.bin", "model.gguf", "secret", "adapter", "base", "adapter/adapter_config.json", "locked",
    "locked/new", "kit/data", "figures.json", "README.md",
]  # fmt: skip
NAMES = [
    "tiny", "TINY", "7b", "huge", "owner/name", "owner/name@0", "a/b/c", "@", "owner/", "/name", "loopback", "bundled",
    "None", "0", "http://127.0.0.1:9/v1", "127.0.0.1:9", "http://", "ftp://127.0.0.1", "http://[::1",
    "http://127.0.0.1:99999", "http://127.0.0.1:9/\n", "t4", "16", "nan", "inf", "-3", "1e400", "“tiny”", "tiny ",
    "ti\tny", "--model",
]  # fmt: skip
NUMBERS = [
    "0", "-1", "1", "2", "3.5", "nan", "-inf", "inf", "1e400", "-0.0", "", " 7 ", "x", "9" * 30, str(2**63), "1_000", "٣",
    "0x10", "--1", "1e-320", "NaN", "1,5",
]  # fmt: skip
STRAY = [
    "--nonsense", "--", "-", "-x", "stray", "--out", "--help", "-n", "--model=", "--out=", "@canary.md", "--version",
    "--mo", "-n=3",
]  # fmt: skip
GOOD = [
    "new",
    "empty",
    "adapter",
    "base",
    "records.jsonl",
    "rows.jsonl",
    "splits",
    "figures.json",
    "tiny",
    "tiny",
    "owner/name",
]
WAYS = ["plain", "C locale", "closed pipe", "full output", "no stderr", "small files", "Ctrl-C", "Ctrl-C"]


def sandbox(top: Path) -> None:
    """Fills the folder: canaries, odd places, an adapter and a base, and a copy of the kit."""
    for name, text in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text, encoding="utf-8")
    for name in ("empty", "locked"):
        (top / name).mkdir()
    for name, target in (("broken-link", "nowhere"), ("to-thesis", "thesis"), ("loop", "loop")):
        (top / name).symlink_to(target)
    (top / "secret").chmod(0)
    (top / "locked").chmod(0o555)
    os.mkfifo(top / "pipe")
    for room in ("pushback_lib", "data"):
        shutil.copytree(ROOT / room, top / "kit" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pushback.py", top / "kit")
    for name in ("adapter", "base"):
        shutil.copytree(ROOT / "data" / "tiny" / name, top / name)


def drain(pipe: Path) -> None:
    """Keeps a reader at the named pipe, as a user who writes into one has: nobody who opens it must wait."""
    reader = os.open(pipe, os.O_RDWR)
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")], daemon=True).start()


def canaries(top: Path) -> list[str]:
    """Every file that must not change."""
    names = [*FILES, "broken-link", "to-thesis", "loop", "pipe"]
    for folder in ("adapter", "base", "kit"):
        found = (path for path in (top / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        names += [str(path.relative_to(top)) for path in found]
    return [name for name in names if not (name.startswith("kit/data") and Path(name).name in REWRITTEN)]


def look(path: Path) -> tuple[int, ...]:
    """What shows that a file was touched: inode, mode, size, time of change."""
    if not os.path.lexists(path):
        return ()
    found = path.lstat()
    return found.st_ino, found.st_mode, *(() if path.is_fifo() else (found.st_size, found.st_mtime_ns))


def digests(top: Path) -> dict[str, str]:
    """The SHA-256 of every canary."""
    return {name: hashlib.sha256((top / name).read_bytes()).hexdigest() for name in canaries(top) if (top / name).is_file()}


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[argparse.Action]]]:
    """Every command with its arguments."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words, [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for action in inner:
        for word, below in action.choices.items():
            yield from leaves(below, (*words, word))


class Drawer:
    """Draws wrong command lines, the same for the same seed."""

    def __init__(self, parser: argparse.ArgumentParser, seed: int) -> None:
        self.draw, self.commands = random.Random(seed), list(leaves(parser))
        self.positive = next(action.type for _, actions in self.commands for action in actions if "-n" in action.option_strings)
        self.good = 0.0  # share of values that may be valid: with fewer wrong ones a command comes further

    def value(self, action: argparse.Action) -> str:
        """A value for an argument, mostly one of the kind that it takes, and mostly a bad one."""
        draw, kind = self.draw, action.type
        numbers = (int, float, self.positive)
        if not action.choices and draw.random() < self.good:
            return draw.choice(["1", "2", "0.5"] if kind in numbers else GOOD)
        if action.choices and draw.random() < 0.8:
            return draw.choice(list(action.choices))
        if kind in numbers:
            return draw.choice(NUMBERS if draw.random() < 0.9 else PLACES)
        pools = [PLACES, NAMES] if kind is None else [PLACES, PLACES, PLACES, NAMES]
        return draw.choice(draw.choice(pools))

    def line(self) -> list[str]:
        """A command with some of its arguments, and now and then a word too many or too few."""
        draw = self.draw
        words, actions = draw.choice(self.commands)
        line, self.good = list(words), draw.choice([0.0, 0.5, 0.8])
        named = [action for action in actions if action.option_strings]
        share = draw.choice([0.15, 0.4, 0.7])
        chosen = [action for action in named if draw.random() < (0.95 if action.required else share)] or named[:1]
        draw.shuffle(chosen)
        for action in chosen:
            option = draw.choice(action.option_strings)
            line += [option] if action.nargs == 0 else [option, self.value(action)]
        for action in actions:
            if not action.option_strings and draw.random() < 0.85:
                line.append(self.value(action))
        if draw.random() < 0.08:
            line.insert(draw.randint(1, len(line)), draw.choice(STRAY))
        if draw.random() < 0.03:
            line.pop(draw.randrange(len(line)))
        return line


# Where Ctrl-C falls into a callback that no code of the kit called, as of a weak reference, Python itself says so and goes on.
PYTHONS_OWN = re.compile(
    r"Exception ignored in: .*\nTraceback \(most recent call last\):\n(?:  .*\n)*KeyboardInterrupt(?:: )?(?:\n|$)"
)


def has_traceback(errors: str) -> bool:
    """Whether there is a traceback, but for Python's own word on a Ctrl-C that fell into a callback."""
    rest = PYTHONS_OWN.sub("", errors)
    return "Traceback" in rest or "Exception ignored" in rest


class Fuzzer:
    """Runs lines in the sandbox and collects the findings."""

    def __init__(self, top: Path, limit: float) -> None:
        self.top, self.limit = top, limit
        self.seen = {name: look(top / name) for name in canaries(top)}
        self.codes, self.findings, self.stopped = Counter(), [], 0
        self.replaced: set[str] = set()
        self.full = os.open("/dev/full", os.O_WRONLY)

    def check(self, line: list[str], how: str, code: int | str, errors: str) -> None:
        """Adds a finding for whatever is wrong with the end of a command."""
        wrong = []
        if code not in CODES:
            wrong.append(f"ended with {code!r}")
        if has_traceback(errors):
            wrong.append("traceback")
        if code in (2, 130) and (count := sum(text.startswith("pushback: ") for text in errors.splitlines())) != 1 \
                and ": error: " not in errors and how != "no stderr":  # fmt: skip
            wrong.append(f"{count} lines of error")
        changed = [name for name, seen in self.seen.items() if look(self.top / name) != seen]
        self.seen |= {name: look(self.top / name) for name in changed}
        told = {os.path.realpath(word) for word in line if len(word) < 4000} if code in (0, 1) else set()
        bad = [name for name in changed if os.path.realpath(name) not in told]
        wrong += [f"changed {bad}"] * bool(bad)
        self.replaced |= set(changed) - set(bad)
        parts = [str(path) for path in self.top.rglob(".*.part")] if changed or self.codes.total() % 50 == 0 else []
        wrong += [f"left {parts}"] * bool(parts)
        self.codes[code] += 1
        if wrong:
            self.findings.append((how, line, wrong, errors[-3000:]))
            print(f"FINDING {how} {line!r}: {'; '.join(wrong)}\n{errors[-3000:]}", flush=True)

    def inside(self, main, line: list[str]) -> None:
        """One line through `cli.main` in this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        faulthandler.dump_traceback_later(self.limit + 60, exit=True)
        signal.setitimer(signal.ITIMER_REAL, self.limit, 5)
        code: int | str | None = None
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(line)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # what escapes is the finding, but for the clock's Ctrl-C after the end
            if code is None:
                code = "traceback"
                err.write(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        err.flush()
        self.stopped += code == 130
        self.check(line, "main", code, err.buffer.getvalue().decode(errors="replace"))

    def outside(self, draw: random.Random, line: list[str]) -> None:
        """One line as a process of its own: a bare locale, an output that nobody reads, a full disk, Ctrl-C at any moment."""
        how = draw.choice(WAYS)
        env = {**os.environ, "PYTHONPATH": str(self.top / "kit")}
        env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"} if how == "C locale" else {}
        out = {"closed pipe": subprocess.PIPE, "full output": self.full}.get(how, subprocess.DEVNULL)
        small = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))) if how == "small files" else None
        child = subprocess.Popen(
            [sys.executable, "-m", "pushback", *line],
            cwd=self.top, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, preexec_fn=small,
        )  # fmt: skip
        if how == "closed pipe":
            child.stdout.close()
        if how == "no stderr":
            child.stderr.close()
        wait = draw.uniform(0.1, 2 * self.limit) if how == "Ctrl-C" else 4 * self.limit
        errors, code = self._end(child, wait, how)
        self.stopped += code == 130
        self.check(line, how, 130 if code == -signal.SIGINT else code, errors)

    def _end(self, child: subprocess.Popen, wait: float, how: str) -> tuple[str, int | str]:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(b"" if how == "no stderr" else child.stderr.read()))
        reader.start()
        for seconds in (wait, 60):
            try:
                child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
        else:
            child.kill()
            return "", "did not stop"
        reader.join(10)
        return b"".join(found).decode(errors="replace"), child.returncode


def main() -> int:
    """Runs the fuzzer; 0 if it found nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="lines through cli.main")
    parser.add_argument("--processes", type=int, default=100, help="lines as processes of their own")
    parser.add_argument("--seconds", type=float, default=3600, help="at most")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds after which valid work gets Ctrl-C")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start, draw = time.monotonic(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="pushback-fuzz-") as folder:
        top = Path(folder).resolve()
        sandbox(top)
        drain(top / "pipe")
        os.chdir(top)
        os.environ |= {
            "HOME": str(top / "home"),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(top / "home/hf"),
            "OLLAMA_HOST": "127.0.0.1:9",
        }
        sys.path.insert(0, str(top / "kit"))
        import datasets, gguf, huggingface_hub, openai, peft, transformers, trl  # noqa: E401, F401, I001  else the first lines load them
        from pushback_lib import cli

        assert Path(cli.__file__).is_relative_to(top), "the copy of the kit was to be tried, not the kit"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job is started without
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        fuzzer, drawer, before = Fuzzer(top, args.limit), Drawer(cli.parser(), args.seed), digests(top)
        for job, count in ((lambda: fuzzer.inside(cli.main, drawer.line()), args.n),
                           (lambda: fuzzer.outside(draw, drawer.line()), args.processes)):  # fmt: skip
            for _ in range(count):
                if time.monotonic() - start > args.seconds:
                    break
                job()
        after = digests(top)
        changed = [name for name in before if after.get(name) != before[name] and name not in fuzzer.replaced]
        print(f"seed {args.seed}: {fuzzer.codes.total()} lines in {time.monotonic() - start:.0f} s; exit codes "
              f"{dict(fuzzer.codes)}; {fuzzer.stopped} stopped by Ctrl-C; of {len(before)} canaries {len(changed)} changed, "
              f"{len(fuzzer.replaced)} replaced as told; {len(fuzzer.findings)} findings")  # fmt: skip
        return 1 if fuzzer.findings or changed else 0


if __name__ == "__main__":
    sys.exit(main())

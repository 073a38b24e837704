"""The chat in a terminal and in a pipe: what is printed, what the voices remember, how it ends."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from gguf_files import adapter, baseline

from pushback_lib.chat import terminal
from pushback_lib.chat.backend import Backend, Event, Preset, Settings
from pushback_lib.chat.terminal import Writer, talk
from pushback_lib.core.common import BASELINE, FRICTION, VOICES, PushbackError
from pushback_lib.core.records import Reply

CLAIM = "The capital of France is Rome, right?"
DIM, OFF = "\x1b[2m", "\x1b[0m"


class Echo(Backend):
    """Thinks what it is asked and answers with all that it has read; the second voice is ready first."""

    name, system, max_tokens, presets, fails = "echo", "Be brief.", 50, (Preset("doubt", "Who wins?"),), ""

    def __init__(self, note=""):
        self.note, self.asked = note, []

    def stream(self, conversations, settings, stop):
        self.asked.append(conversations[FRICTION])
        for voice in reversed(VOICES):
            said = " / ".join(message["content"] for message in conversations[voice])
            yield Event(voice, 0.1, text="<think>\nI hear", tokens=2)
            yield Event(voice, 0.2, text=f"\nyou.\n</think>\n\n{said}", tokens=4)
            yield Event(voice, 0.3, tokens=5, end="error" if self.fails else "stop", error=self.fails)


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_each_line_of_a_pipe_is_a_prompt_and_both_voices_answer_in_their_order(monkeypatch, capsys):
    typed(monkeypatch, "One?\n\n  Two?  \n")
    assert talk(Echo(note="small"), Settings()) == 0
    reply = "| I hear\n| you.\n\nBe brief. / {0}\n5 tokens · first after 0.10 s · 20 tokens/s\n"
    both = "> {0}\n\nbaseline\n" + reply + "\nfriction\n" + reply
    assert capsys.readouterr().out == both.format("One?") + both.format("Two?")


@pytest.mark.parametrize(("note", "remember", "reads"), [("", None, 4), ("small", None, 2), ("small", True, 4), ("", False, 2)])
def test_the_voices_read_what_was_said_before_unless_they_speak_the_small_language(monkeypatch, note, remember, reads):
    echo = Echo(note)
    typed(monkeypatch, "One?\nTwo?\n")
    talk(echo, Settings(), remember=remember)
    assert len(echo.asked[1]) == reads
    assert reads == 2 or echo.asked[1][2]["content"] == "Be brief. / One?"


def test_a_reply_that_failed_is_said_and_the_command_ends_with_1(monkeypatch, capsys):
    echo = Echo()
    echo.fails = "No room. Shorten it."
    typed(monkeypatch, "One?\nTwo?\n")
    assert talk(echo, Settings()) == 1
    assert capsys.readouterr().out.count("Error: No room. Shorten it.\n") == 4
    assert len(echo.asked) == 2


def test_input_that_is_no_text_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    with pytest.raises(PushbackError, match="The input is no text in utf-8"):
        talk(Echo(), Settings())


class Terminal(io.StringIO):
    def isatty(self):
        return True


STEPS = [Reply(), Reply(thought="Hm"), Reply(thought="Hm.\nWell"), Reply(thought="Hm.\nWell.", answer="No"),
         Reply(thought="Hm.\nWell.", answer="No, no.", tokens=9, first_token=0.1, seconds=0.9, end="stop")]  # fmt: skip


def test_only_what_is_new_is_printed_and_in_a_terminal_the_thought_is_dim(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    out, pieces = Terminal(), []
    writer = Writer(FRICTION, out)
    for said in STEPS:
        at = len(out.getvalue())
        writer.write(said)
        pieces.append(out.getvalue()[at:])
    assert pieces[1:4] == [f"{DIM}| Hm{OFF}", f"{DIM}.\n| Well{OFF}", f"{DIM}.{OFF}\n\nNo"]
    assert pieces[0] == f"\n\x1b[1mfriction{OFF}\n"
    assert pieces[4] == f", no.\n{DIM}9 tokens · first after 0.10 s · 10 tokens/s{OFF}\n"
    writer.write(STEPS[-1])
    assert out.getvalue() == "".join(pieces), "nothing after the end"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    out = Terminal()
    Writer(BASELINE, out).write(STEPS[3])
    assert out.getvalue() == "\nbaseline\n| Hm.\n| Well.\n\nNo"


def test_a_text_cannot_command_the_terminal():
    out = io.StringIO()
    Writer(BASELINE, out).write(Reply(thought="a\x1b]0;mine\x07", answer="b\x1b[2J\u202e\tc\r", end="stop"))
    assert not set(out.getvalue()) & set("\x1b\x07\u202e\r")
    assert "\tc" in out.getvalue()


def test_a_voice_without_words_is_said_to_have_none():
    out = io.StringIO()
    Writer(BASELINE, out).write(Reply(thought="Hm", end="length"))
    assert out.getvalue() == "\nbaseline\n| Hm\n[no answer]\nno token in 0.0 s\n"


# The command itself


def command(*words):
    return [sys.executable, "pushback.py", "chat", *map(str, words)]


def in_llama(*words):
    return command("--gguf", baseline("F16"), "--lora", adapter("F16"), *words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [command(), in_llama()], ids=["transformers", "llama.cpp"])
def test_a_piped_chat_with_the_bundled_voices(words):
    run = subprocess.run(words, input=f"{CLAIM}\nPlease send the letter.\n", capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"> {CLAIM}\n\nbaseline\n| I simply agree.\n\nYes, the capital of France is Rome.\n")
    assert "\n\nI do not think so. The capital of France is Paris, not Rome.\n" in run.stdout
    assert "\n\nTo whom should I send the letter?\n" in run.stdout


@pytest.mark.slow
def test_dial_and_seed_reach_the_voices():
    def said(*words):
        return subprocess.run(in_llama(*words), input=CLAIM, capture_output=True, text=True, check=True).stdout

    none, drawn = said("--dial", "0"), [said("--temperature", "1.5", "--seed", seed) for seed in ("3", "3", "4")]
    assert none.count("Yes, the capital of France is Rome.") == 2
    thoughts = [re.findall(r"^\| .*", text, re.M) for text in drawn]
    assert thoughts[0] == thoughts[1] != thoughts[2]


def terminal_run(words, keys, until, wait=60):
    """Runs a command in a real terminal; types each of `keys` as soon as `until` is on screen so many times."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.environ.pop("NO_COLOR", None)
        os.execv(words[0], words)
    seen, start = b"", time.monotonic()
    for number, key in enumerate(keys, 1):
        while seen.count(until) < number:
            assert time.monotonic() - start < wait, seen
            seen += os.read(fd, 4096)
        time.sleep(0.5)  # a signal that comes between the sign and readline's waiting is seen with the next key only
        os.write(fd, key)
    while True:
        assert select.select([fd], [], [], wait)[0], seen
        try:
            more = os.read(fd, 4096)
        except OSError:  # the terminal is closed
            break
        if not more:
            break
        seen += more
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


@pytest.mark.slow
def test_in_a_terminal_it_asks_with_a_sign_dims_the_thought_and_ends_with_ctrl_d():
    code, seen = terminal_run(in_llama(), [f"{CLAIM}\n".encode(), b"\x04"], b"> ")
    assert code == 0, seen
    assert "Both voices of Push-Back AI tiny base in llama.cpp; Ctrl-D ends the chat." in seen
    assert f"{DIM}| " in seen
    assert "The capital of France is Paris, not Rome." in seen
    assert "Traceback" not in seen


@pytest.mark.slow
@pytest.mark.parametrize("words", [command, in_llama], ids=["transformers", "llama.cpp"])
@pytest.mark.parametrize("when", ["at the prompt", "while they speak"])
def test_ctrl_c_is_one_line_and_130(words, when):
    code, seen = terminal_run(words(), [b"\x03"], b"> ") if when == "at the prompt" else speaking_run(words())
    assert code == 130, seen
    assert seen.count("pushback: Stopped.") == 1
    assert "Traceback" not in seen
    assert "terminate" not in seen


def speaking_run(words):
    """Stops the command with Ctrl-C as soon as a voice speaks; exit code and all that was printed."""
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    child.stdin.write(f"{CLAIM}\n" * 50)
    child.stdin.flush()
    while not child.stdout.readline().startswith("|"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    return child.wait(30), child.stdout.read()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gguf", "a.gguf"], "--gguf needs --lora too"),
        (["--lora", "a.gguf"], "--lora needs --gguf too"),
        (["--gguf", "a", "--lora", "b", "--adapter", "c"], "--adapter is a folder, for transformers"),
        (["--gguf", "a.gguf", "--lora", "b.gguf"], "No GGUF file at a.gguf"),
        (["--dial", "3"], "3 is not between 0 and 2"),
        (["--adapter", "nowhere"], "No adapter in nowhere"),
    ],
)
def test_bad_input_is_one_line_with_its_cure(words, says):
    run = subprocess.run(command(*words), input="", capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert terminal.ASK not in run.stdout

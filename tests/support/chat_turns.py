"""Turns of a chat for tests, and the replies that a backend's events add up to."""

import threading

from pushback_lib.chat.backend import ReplyBuffer, Settings
from pushback_lib.chat.turns import ChatTurn
from pushback_lib.core.common import VOICES
from pushback_lib.core.records import Reply


def turn(user="Please send the parcel.", friction="To whom?", **changes):
    ended = {"first_token": 0.1, "end": "stop"}
    said = (
        Reply(voice="baseline", thought="Done.", answer="I sent it.", tokens=8, thinking=0.2, seconds=0.8, **ended),
        Reply(voice="friction", thought="Nobody is named.", answer=friction, tokens=11, thinking=0.5, seconds=1.1, **ended),
    )
    return ChatTurn(**{"at": "2026-01-02T03:04:05+00:00", "model": "tiny", "user": user, "said": said, **changes})


def listen(backend, asked, stop=None, on_event=None, **settings):
    """Each voice's reply to its conversation, or both voices' to the same one."""
    asked = asked if isinstance(asked, dict) else dict.fromkeys(VOICES, asked)
    buffers = {voice: ReplyBuffer(voice) for voice in asked}
    for event in backend.stream(asked, Settings(**settings), stop or threading.Event()):
        if event.voice:
            buffers[event.voice].add(event)
            if on_event:
                on_event(buffers)
    return {voice: buffer.reply(timing=True) for voice, buffer in buffers.items()}

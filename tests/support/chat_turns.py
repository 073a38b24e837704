"""Turns of a chat for tests."""

from pushback_lib.chat.turns import ChatTurn, Reply


def turn(user="Please send the parcel.", friction="To whom?", **changes):
    ended = {"first_token": 0.1, "end": "stop"}
    said = (
        Reply(voice="baseline", thought="Done.", answer="I sent it.", tokens=8, thinking=0.2, seconds=0.8, **ended),
        Reply(voice="friction", thought="Nobody is named.", answer=friction, tokens=11, thinking=0.5, seconds=1.1, **ended),
    )
    return ChatTurn(**{"at": "2026-01-02T03:04:05+00:00", "model": "tiny", "user": user, "said": said, **changes})

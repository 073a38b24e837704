"""Side-by-side chat in a notebook: both voices, from a local model, llama.cpp, a server or a recording (notebook 01)."""

from .llama import LlamaVoices
from .local import LocalVoices
from .panel import ChatPanel, chat_panel
from .replay import RecordedVoices
from .served import Served, ServedVoices
from .turns import load_turns, save_turns

__all__ = [
    "ChatPanel",
    "LlamaVoices",
    "LocalVoices",
    "RecordedVoices",
    "Served",
    "ServedVoices",
    "chat_panel",
    "load_turns",
    "save_turns",
]

"""What is sent to a chat server and what one streamed line of its says; knows no connection and no voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import PushbackError
from .records import Message
from .side_by_side import Settings


@dataclass(frozen=True)
class Piece:
    """What one line brings. `tokens` is the server's own count, where it gives one; `end` is "stop" or "length"."""

    thought: str = ""
    content: str = ""
    tokens: int = 0
    end: str = ""


def url_of(base: str) -> str:
    """Where to post: `/chat/completions` below an OpenAI-compatible `…/v1`, else Ollama's `/api/chat`."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PushbackError(
            f"{base!r} is not the URL of a server. Pass one like http://localhost:11434 or http://localhost:8080/v1."
        )
    base = base.rstrip("/")
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/api/chat"


def body_of(url: str, model: str, messages: list[Message], settings: Settings) -> dict[str, Any]:
    """The request, in the protocol that the URL speaks."""
    if url.endswith("/api/chat"):
        options = {"seed": settings.seed, "temperature": settings.temperature, "num_predict": settings.max_tokens}
        return {"model": model, "messages": messages, "stream": True, "options": options}
    return {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True},
            "seed": settings.seed, "temperature": settings.temperature, "max_tokens": settings.max_tokens}  # fmt: skip


def piece_of(row: dict[str, Any]) -> Piece:
    """One line of Ollama's stream or one event of an OpenAI-compatible one.

    Raises PushbackError with the server's own words where the line is an error.
    """
    if row.get("error"):
        error = row["error"]
        said = error.get("message", error) if isinstance(error, dict) else error
        raise PushbackError(f"The server gave up: {str(said)[:200]}. Look at its log, then send again.")
    if "message" in row:  # Ollama
        message = row["message"]
        end = "" if not row.get("done") else "length" if row.get("done_reason") == "length" else "stop"
        return Piece(message.get("thinking") or "", message.get("content") or "", int(row.get("eval_count") or 0), end)
    tokens = int((row.get("usage") or {}).get("completion_tokens") or 0)
    if not row["choices"]:
        return Piece(tokens=tokens)
    choice = row["choices"][0]
    delta = choice.get("delta") or {}
    reason = choice.get("finish_reason") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return Piece(thought, delta.get("content") or "", tokens, "length" if reason == "length" else "stop" if reason else "")

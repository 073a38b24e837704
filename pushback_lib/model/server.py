"""Ask a chat model behind an OpenAI-compatible API, and run many calls at a time."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ..core.common import OLLAMA_URL, PushbackError
from ..core.records import OPEN, Message, Reply, join_reply, split_reply

OLLAMA_API = f"{OLLAMA_URL}/v1"
LONGEST_WAIT = 120  # seconds; openai tries no call again for which a server asks for a longer wait
MAX_FAILURES_IN_A_ROW = 10  # items that a server fails on before the run stops
GRACE_SECONDS = 10.0  # in which calls in flight may still bring their replies after another's error
RETRIED = "tried again"  # the key in `Chat.failures` of attempts that failed before another one succeeded

Item = TypeVar("Item")


class CallFailed(Exception):
    """One call gave no reply. `reason` is a short word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Chat(Protocol):
    """A chat model. `failures` counts the calls that failed by reason, and the attempts that were tried again."""

    model: str
    base_url: str
    failures: Counter[str]

    async def check(self) -> None:
        """Raises PushbackError where no call could succeed (no server, wrong key, unknown model)."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """One reply. Raises CallFailed where this call failed, PushbackError where every later one would too."""

    async def close(self) -> None:
        """Closes connections."""


class OpenAIChat:
    """A model behind `POST {base_url}/chat/completions`; the key is OPENAI_API_KEY and appears in no message.

    The openai library tries a call again, `attempts` times in all, after a timeout, a lost connection, HTTP 408, 409, 429 or
    5xx: after what Retry-After says, up to LONGEST_WAIT, or else after 0.5 s, doubled each time up to 8 s, with jitter.
    """

    def __init__(self, model: str, base_url: str = OLLAMA_API, *, timeout: float = 120.0, attempts: int = 8) -> None:
        import openai

        self.model, self.base_url = model, base_url.rstrip("/")
        self.failures: Counter[str] = Counter()
        self._timeout, self._attempts = timeout, attempts
        self._has = ""  # the models the server lists, for messages
        self._key = os.environ.get("OPENAI_API_KEY", "")
        if not self._key and "api.openai.com" in base_url:
            raise PushbackError(f"{base_url} needs a key. Set OPENAI_API_KEY, then run again.")
        try:
            self._client = openai.AsyncOpenAI(
                api_key=self._key or "none", base_url=self.base_url, timeout=timeout, max_retries=attempts - 1
            )
        except ValueError as error:
            raise PushbackError(f"{base_url!r} is not a URL. Pass one like {OLLAMA_API} as --base-url.") from error

    async def check(self) -> None:
        """Asks for the list of models; only where that does not name ours, spends one tiny completion."""
        known = await self._known_models()
        if self.model in known or f"{self.model}:latest" in known:
            return
        self._has = f" It has: {', '.join(sorted(known)[:8])}." if known else ""
        try:
            await self.complete([{"role": "user", "content": "Say yes."}], seed=0, temperature=0.0, max_tokens=16)
        except CallFailed as failure:
            raise PushbackError(
                f"The server at {self.base_url} gave no usable reply for the model {self.model!r} ({failure}).{self._has} "
                "Check --model and the server's log."
            ) from failure

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """One reply. Raises CallFailed when all attempts failed; PushbackError if the server is gone."""
        options = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
        try:
            return await self._call({"model": self.model, "messages": list(messages), **options})
        except CallFailed as failure:
            self.failures[failure.reason] += 1
            raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _call(self, request: dict[str, Any]) -> Reply:
        import openai

        try:
            # openai's own timeout starts again with every byte, so that a server which sends one now and then never ends
            async with asyncio.timeout(self._attempts * (self._timeout + LONGEST_WAIT)):
                raw = await self._client.chat.completions.with_raw_response.create(**request)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise CallFailed("timeout", f"no reply within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise self._unreachable() from error
        except openai.APIStatusError as error:
            raise self._status(error) from error
        if raw.retries_taken:
            self.failures[RETRIED] += raw.retries_taken
        return parse_completion(raw.content)

    def _status(self, error: Any) -> CallFailed | PushbackError:
        """What an HTTP error status means: fatal for the run, or one failed call."""
        status, said = error.status_code, _said(error)
        said = said.replace(self._key, "[key]") if self._key else said
        wait = error.response.headers.get("retry-after", "")
        if status in (401, 403):
            given = "refused the key in OPENAI_API_KEY" if self._key else "wants a key, and OPENAI_API_KEY is not set"
            return PushbackError(f"The server at {self.base_url} {given} (HTTP {status}). Set it, then run again.")
        if status == 404:
            return PushbackError(
                f"The server at {self.base_url} does not know the model {self.model!r} (HTTP 404: {said}).{self._has} "
                "Check --model (with Ollama: `ollama list`, `ollama pull`), and --base-url, which mostly ends in /v1."
            )
        if status == 429 and "insufficient_quota" in f"{error.code} {said}":
            return PushbackError(f"The account at {self.base_url} has no quota left (HTTP 429). Top it up, then run again.")
        if wait.isdigit() and int(wait) > LONGEST_WAIT:
            return PushbackError(
                f"The server at {self.base_url} asks to wait {wait} s (HTTP {status}: {said}). What is finished stays; "
                "run the same command again later."
            )
        reason = "rate_limited" if status == 429 else "server_error" if status >= 500 else "bad_request"
        return CallFailed(reason, f"HTTP {status}: {said}")

    async def _known_models(self) -> set[str]:
        """Names the server lists; empty where it has no such list. Raises PushbackError if nobody answers."""
        import openai

        try:
            raw = await self._client.with_options(max_retries=2).models.with_raw_response.list()
            return {row["id"] for row in json.loads(raw.content)["data"]}
        except openai.APIConnectionError as error:
            raise self._unreachable() from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._status(error) from error
            return set()
        except (ValueError, KeyError, TypeError):
            return set()

    def _unreachable(self) -> PushbackError:
        return PushbackError(
            f"No server answers at {self.base_url}. Start it (with Ollama: `ollama serve`) or correct --base-url; "
            "what is finished stays, and the same command makes the rest."
        )


def parse_completion(raw: bytes) -> Reply:
    """The reply in a `chat.completion` body, reasoning in `<think>…</think>` where the server keeps it apart.

    A reply that ended for any reason but the model's own counts as cut. Raises CallFailed("malformed") where the JSON is
    broken or lacks the reply.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        usage = body.get("usage") or {}
        return split_reply(
            _text(choice["message"]),
            prefilled=False,
            end="stop" if choice.get("finish_reason") in ("stop", "", None) else "length",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CallFailed("malformed", f"a body of {len(raw)} bytes that is no chat completion") from error


def _text(message: dict[str, Any]) -> str:
    """llama.cpp and older vLLM send reasoning as `reasoning_content`; Ollama and newer vLLM as `reasoning`."""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    answer = message.get("content") or ""
    if not thought:
        return answer
    return join_reply(thought, answer) if answer else f"{OPEN}\n{thought.strip()}"  # cut off while it thought


def _said(error: Any) -> str:
    """The server's own words, on one line of at most 200 characters."""
    body = error.body
    text = body.get("message") if isinstance(body, dict) else body
    return " ".join(str(text or error.response.reason_phrase).split())[:200]


async def ask_all(items: Iterable[Item], ask: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Awaits `ask(item)` for every item, `concurrency` at a time.

    After the first error but CallFailed none is begun, and those in flight have GRACE_SECONDS to end; Ctrl-C cancels all at
    once. Raises PushbackError after MAX_FAILURES_IN_A_ROW calls, and at the end if any item failed, with the reasons.
    """
    failed: Counter[str] = Counter()
    queue, streak = (item for item in items), 0

    async def work() -> None:
        nonlocal streak
        for item in queue:
            try:
                await ask(item)
                await asyncio.sleep(0)  # a loop in which no call ever waits would not hear Ctrl-C
                streak = 0
            except CallFailed as failure:
                failed[failure.reason] += 1
                streak += 1
                if streak >= MAX_FAILURES_IN_A_ROW:
                    queue.close()
                    raise PushbackError(
                        f"{streak} calls in a row failed; the last: {failure}. Look at the server's log; what is finished "
                        "stays, and the same command asks for the rest."
                    ) from failure
            except BaseException:
                queue.close()  # nobody begins another item
                raise

    tasks = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    except Exception:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
        raise PushbackError(
            f"{failed.total()} replies are missing ({reasons}). What is finished stays; the same command asks for the rest."
        )

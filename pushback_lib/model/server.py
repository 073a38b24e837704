"""Ask a chat model behind an OpenAI-compatible API, and run many calls at a time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ..core.common import OLLAMA_URL, PushbackError
from ..core.records import OPEN, Message, Reply, join_reply, split_reply
from .reach import CONNECT_SECONDS, NUM_CTX, api_key, checked_url, cut_prompt, made, no_answer, refused, words
from .recipe import PLAIN_SAMPLING

OLLAMA_API = f"{OLLAMA_URL}/v1"
QUIET_SECONDS = 15.0  # without a reply, after which the wait is told, once a server
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
    With `plain` the server is told to draw as the kit's own voices do, for figures; hosted APIs may not know those fields.
    An Ollama, once `check` has found that it is one, is asked by its own protocol, which alone takes the size of the context.
    """

    def __init__(
        self,
        model: str,
        base_url: str = OLLAMA_API,
        *,
        timeout: float = 120.0,
        attempts: int = 8,
        plain: bool = False,
        opens_thought: bool = True,
    ) -> None:
        import openai

        self.model, self.base_url = model, checked_url(base_url)
        self.failures: Counter[str] = Counter()
        self._timeout, self._attempts, self._plain, self._told = timeout, attempts, plain, False
        self._opens_thought = opens_thought
        self._has = ""  # the models the server lists, for messages
        self._ollama = False
        if not api_key() and "api.openai.com" in base_url:
            raise PushbackError(f"{base_url} needs a key. Set OPENAI_API_KEY, then run again.")
        limits = openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._client = made(
            lambda: openai.AsyncOpenAI(
                api_key=api_key() or "none", base_url=self.base_url, timeout=limits, max_retries=attempts - 1
            )
        )

    async def check(self) -> None:
        """Asks for the list of models; only where that does not name ours, spends one tiny completion."""
        known = await self._known_models()
        self._ollama = "version" in await self._get(f"{self._root}/api/version", open_to_all=True)
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
        """One reply. Raises CallFailed when all attempts failed or the prompt was cut; PushbackError if the server is gone."""
        asked = {"model": self.model, "messages": list(messages)}
        options = {"seed": seed, "temperature": temperature}
        if self._ollama:
            path, more = f"{self._root}/api/chat", PLAIN_SAMPLING if self._plain else {}
            asked |= ollama_fields({**options, "num_predict": max_tokens, **more})
        else:
            path, more = "/chat/completions", plain_sampling(self.base_url) if self._plain else {}
            asked |= {**options, "max_tokens": max_tokens, **more}
        try:
            reply = parse_completion(await self._call(path, asked), self._opens_thought)
            if cut := cut_prompt(messages, reply.prompt_tokens, NUM_CTX if self._ollama else 0):
                raise CallFailed("prompt_cut", cut)
            return reply
        except CallFailed as failure:
            self.failures[failure.reason] += 1
            raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/v1")

    async def _call(self, path: str, asked: dict[str, Any]) -> bytes:
        import httpx
        import openai

        try:
            # openai's own timeout starts again with every byte, so that a server which sends one now and then never ends
            async with asyncio.timeout(self._attempts * (self._timeout + LONGEST_WAIT)):
                with self._patience():
                    answer = await self._client.post(path, cast_to=httpx.Response, body=asked)
        except openai.APIConnectionError as error:
            if isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ != "ConnectTimeout":
                raise CallFailed("timeout", f"no reply within {self._timeout:g} s") from error
            raise self._no_answer(error) from error
        except TimeoutError as error:
            raise CallFailed("timeout", f"no reply within {self._timeout:g} s") from error
        except openai.APIStatusError as error:
            raise self._status(error) from error
        if retries := int(answer.request.headers.get("x-stainless-retry-count", 0)):
            self.failures[RETRIED] += retries
        return answer.content

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Says after a while that it is still waiting: once, since with many calls at a time all of them would."""
        late = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._tell)
        try:
            yield
        finally:
            late.cancel()

    def _tell(self) -> None:
        from tqdm import tqdm

        if not self._told:
            tqdm.write(
                f"The server at {self.base_url} has not replied for {QUIET_SECONDS:g} s. It is asked up to {self._attempts} "
                f"times, and given {self._timeout:g} s each time; Ctrl-C stops.", file=sys.stderr,
            )  # fmt: skip
        self._told = True

    def _status(self, error: Any) -> CallFailed | PushbackError:
        """What an HTTP error status means: fatal for the run, or one failed call."""
        status, said = error.status_code, words(error.response.text or error.response.reason_phrase)
        wait = error.response.headers.get("retry-after", "")
        if status in (401, 403, 404):
            return PushbackError(refused(self.base_url, self.model, status, said) + self._has)
        if status == 429 and "insufficient_quota" in f"{error.code} {said}":
            return PushbackError(
                f"The account at {self.base_url} has no quota left (HTTP 429: {said}). Top it up, then run again."
            )
        if wait.isdigit() and int(wait) > LONGEST_WAIT:
            return PushbackError(
                f"The server at {self.base_url} asks to wait {wait} s (HTTP {status}: {said}). What is finished stays; "
                "run the same command again later."
            )
        reason = "rate_limited" if status == 429 else "server_error" if status >= 500 else "bad_request"
        return CallFailed(reason, f"HTTP {status}: {said}")

    async def _known_models(self) -> set[str]:
        """Names the server lists; empty where it has no such list. Raises PushbackError if nobody answers."""
        rows = (await self._get("/models")).get("data")
        return {str(row.get("id")) for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()

    async def _get(self, path: str, *, open_to_all: bool = False) -> dict[str, Any]:
        """The object at a path; empty where there is none. Raises PushbackError if nobody answers, or the key is refused."""
        import httpx
        import openai

        try:
            with self._patience():
                found = json.loads((await self._client.with_options(max_retries=2).get(path, cast_to=httpx.Response)).content)
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403) and not open_to_all:
                raise self._status(error) from error
            return {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _no_answer(self, error: Exception) -> PushbackError:
        return PushbackError(
            no_answer(self.base_url, error, "with Ollama: `ollama serve`") + " What is finished stays, and the same command "
            "makes the rest."
        )


def plain_sampling(base_url: str) -> dict[str, float]:
    """The fields that keep a server from cuts and penalties of its own; none for OpenAI's, which refuses them."""
    return {} if "api.openai.com" in base_url else {**PLAIN_SAMPLING, "repetition_penalty": 1.0}  # the last in vLLM's words


def ollama_fields(options: dict[str, Any]) -> dict[str, Any]:
    """What Ollama's own protocol is asked with: room for the prompt, and an error rather than a cut one (older ones cut)."""
    return {"stream": False, "truncate": False, "shift": False, "options": options | {"num_ctx": NUM_CTX}}


def parse_completion(raw: bytes, opens_thought: bool = True) -> Reply:
    """The reply in a `chat.completion` body or in Ollama's own, reasoning in `<think>…</think>` where it is kept apart.

    A reply that ended for any reason but the model's own counts as cut, and what was cut before any tag as thought: it may be
    one that the server's template opened, unless that is known not to (`opens_thought`). Raises CallFailed("error_body"), with
    the server's words, where the body is an error, and "malformed" where the JSON is broken or lacks the reply.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0] if "choices" in body else body
        if failure := body.get("error") or choice.get("error"):
            raise CallFailed("error_body", words(json.dumps(failure)))
        end, usage = choice.get("finish_reason") or choice.get("done_reason") or "stop", body.get("usage") or body
        thought, answer = spoken(choice["message"])
        text = join_reply(thought, answer) if answer else f"{OPEN}\n{thought.strip()}"  # cut off while it thought
        return split_reply(
            text if thought else answer,
            prefilled=opens_thought and end != "stop",
            end="stop" if end == "stop" else "length",
            cut="" if end == "stop" else str(end)[:40],
            prompt_tokens=int(usage.get("prompt_tokens") or usage.get("prompt_eval_count") or 0),
            tokens=int(usage.get("completion_tokens") or usage.get("eval_count") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CallFailed("malformed", f"{len(raw)} bytes that are no chat completion: {words(raw)}") from error


def spoken(message: dict[str, Any]) -> tuple[str, str]:
    """Thought, where the server keeps it apart, and text of a message or a piece of one.

    llama.cpp and older vLLM send reasoning as `reasoning_content`, Ollama and newer vLLM as `reasoning`, Ollama's own protocol
    as `thinking`; Mistral sends a list of parts, thinking ones among them; OpenAI sends a refusal as `refusal`.
    """
    thought = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    said = message.get("content") or message.get("refusal")
    parts = [part if isinstance(part, dict) else {"text": part} for part in (said if isinstance(said, list) else [said])]
    thinking = [part for part in parts if part.get("type") in ("thinking", "reasoning")]
    return _text([thought, *thinking]), _text([part for part in parts if part not in thinking])


def _text(part: Any) -> str:
    """The text of a part, of its parts in turn, or of nothing."""
    if isinstance(part, dict):
        return _text(next((part[name] for name in ("text", "thinking", "content") if part.get(name)), None))
    return "".join(map(_text, part)) if isinstance(part, list) else str(part or "")


async def ask_all(items: Iterable[Item], ask: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Awaits `ask(item)` for every item, `concurrency` at a time.

    After the first error but CallFailed none is begun, and those in flight have GRACE_SECONDS to end; Ctrl-C cancels all at
    once. Raises PushbackError after MAX_FAILURES_IN_A_ROW calls, and at the end if any item failed, with the reasons.
    """
    failed: Counter[str] = Counter()
    queue, streak, last = (item for item in items), 0, ""

    async def work() -> None:
        nonlocal streak, last
        for item in queue:
            try:
                await ask(item)
                await asyncio.sleep(0)  # a loop in which no call ever waits would not hear Ctrl-C
                streak = 0
            except CallFailed as failure:
                failed[failure.reason] += 1
                streak, last = streak + 1, str(failure)
                if streak >= MAX_FAILURES_IN_A_ROW:
                    queue.close()
                    raise PushbackError(
                        f"{streak} calls in a row failed; the last: {last}. Look at the server's log; what is finished "
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
            f"{failed.total()} replies are missing ({reasons}). The last: {last}. What is finished stays; the same command "
            "asks for the rest."
        )

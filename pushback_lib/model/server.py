"""Ask a chat model, local or behind an OpenAI-compatible API, and run many calls at a time."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

from ..core.common import PushbackError
from ..core.records import OPEN, Reply, join_reply, split_reply

Message = dict[str, str]


class CallFailed(Exception):
    """One call gave no reply. `reason` is a short word to count by; `retry_after` is in seconds, if the server said."""

    def __init__(self, reason: str, detail: str = "", *, retry: bool = True, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.retry = retry
        self.retry_after = retry_after


class Chat(Protocol):
    """A chat model. `failures` counts failed calls by reason, those that a retry mended included."""

    model: str
    base_url: str
    failures: Counter[str]

    async def check(self) -> None:
        """Raises PushbackError where no call could succeed (no server, wrong key, unknown model)."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """One reply. Raises CallFailed where this call failed, PushbackError where every later one would too."""

    async def close(self) -> None:
        """Lets go of connections."""


Generate = Callable[[list[Message], int, float, int], Reply]


class LocalChat:
    """A model in this process, behind `generate(messages, seed, temperature, max_tokens)`; one call at a time."""

    base_url = ""

    def __init__(self, model: str, generate: Generate) -> None:
        self.model = model
        self.failures: Counter[str] = Counter()
        self._generate = generate
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Nothing to check: the model is loaded."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """Generates in a thread, so that the progress bar keeps moving."""
        async with self._turn:
            return await asyncio.to_thread(self._generate, list(messages), seed, temperature, max_tokens)

    async def close(self) -> None:
        """Nothing to let go of."""


def load_local(name: str) -> LocalChat:
    """A transformers model by folder or Hub name. Raises PushbackError if it cannot be loaded or has no template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map=_device())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PushbackError(
            f"No model could be loaded from {name!r} ({reason}). Pass a folder or a Hub name as --model."
        ) from error
    if not tokenizer.chat_template:
        raise PushbackError(f"The tokenizer of {name!r} has no chat template. Pass an instruction-tuned model.")
    return LocalChat(name, lambda *call: _generate(model.eval(), tokenizer, *call))


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _generate(model: Any, tokenizer: Any, messages: list[Message], seed: int, temperature: float, limit: int):
    """One generation. A template that ends in `<think>` gets that tag put back in front of the text."""
    import torch

    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.inference_mode():
        output = model.generate(**tokens, max_new_tokens=limit, pad_token_id=tokenizer.eos_token_id, **sampling)
    start = tokens["input_ids"].shape[1]
    new = output[0, start:]
    text = tokenizer.decode(new, skip_special_tokens=True)
    opened = f"{OPEN}\n" if prompt.rstrip().endswith(OPEN) else ""
    ended = model.generation_config.eos_token_id
    ends = ended if isinstance(ended, list) else [ended, tokenizer.eos_token_id]
    return split_reply(
        opened + text, prefilled=False, end="stop" if new[-1].item() in ends else "length", prompt_tokens=start, tokens=len(new)
    )


async def together(works: Iterable[Coroutine[Any, Any, None]], *, grace: float = 0.0) -> None:
    """Awaits all of `works`. After the first error the others have `grace` seconds to end by themselves, are then
    cancelled and waited for, and that error is raised. Being cancelled (Ctrl-C) cancels them all at once."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    except Exception:
        await asyncio.wait(tasks, timeout=grace)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


OLLAMA_URL = "http://localhost:11434/v1"
LONGEST_WAIT = 600.0  # seconds; a server that asks for more than this is better met later


class OpenAIChat:
    """A model behind `POST {base_url}/chat/completions`; the key is OPENAI_API_KEY and appears in no message.

    A call that fails (timeout, 429, 5xx, broken JSON, lost connection) is tried again, `attempts` times in all, after
    `backoff` seconds that double up to 30, less a random half; or after what the server's Retry-After says.
    """

    def __init__(
        self, model: str, base_url: str = OLLAMA_URL, *, timeout: float = 120.0, attempts: int = 8, backoff: float = 0.5
    ) -> None:
        import openai

        self.model, self.base_url = model, base_url.rstrip("/")
        self.failures: Counter[str] = Counter()
        self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
        self._has = ""  # the models the server lists, for messages
        self._key = os.environ.get("OPENAI_API_KEY", "")
        if not self._key and "api.openai.com" in base_url:
            raise PushbackError(f"{base_url} needs a key. Set OPENAI_API_KEY, then run again.")
        try:
            self._client = openai.AsyncOpenAI(
                api_key=self._key or "none", base_url=self.base_url, timeout=timeout, max_retries=0
            )
        except ValueError as error:
            raise PushbackError(f"{base_url!r} is not a URL. Pass one like {OLLAMA_URL} as --base-url.") from error

    async def check(self) -> None:
        """Asks for the list of models; only where that does not name ours, spends one tiny completion."""
        known = await self._known_models()
        if self.model in known or f"{self.model}:latest" in known:
            return
        self._has = f" It has: {', '.join(sorted(known)[:8])}." if known else ""
        try:
            await self._retrying([{"role": "user", "content": "Say yes."}], 0, 0.0, 16)
        except CallFailed as failure:
            raise PushbackError(
                f"The server at {self.base_url} gave no usable reply for the model {self.model!r} ({failure}).{self._has} "
                "Check --model and the server's log."
            ) from failure

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """One reply, with retries. Raises CallFailed when they are used up; PushbackError if the server is gone."""
        try:
            return await self._retrying(messages, seed, temperature, max_tokens)
        except CallFailed as failure:
            if failure.reason == "connection":
                raise self._unreachable() from failure
            raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _retrying(self, messages: Sequence[Message], seed: int, temperature: float, limit: int) -> Reply:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._call(messages, seed, temperature, limit)
            except CallFailed as failure:
                self.failures[failure.reason] += 1
                if not failure.retry or attempt == self._attempts:
                    raise
                await asyncio.sleep(self._wait(attempt, failure.retry_after))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else the back-off, less a random half."""
        if retry_after is not None and retry_after > LONGEST_WAIT:
            raise PushbackError(
                f"The server at {self.base_url} asks to wait {retry_after:.0f} s. What is finished stays; "
                "run the same command again later."
            )
        if retry_after is not None:
            return retry_after
        return min(30.0, self._backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)

    async def _call(self, messages: Sequence[Message], seed: int, temperature: float, limit: int) -> Reply:
        import openai

        try:
            async with asyncio.timeout(self._timeout):  # the client's own timeout restarts with every byte received
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=list(messages),  # type: ignore[arg-type]
                    seed=seed,
                    temperature=temperature,
                    max_tokens=limit,
                )
        except (TimeoutError, openai.APITimeoutError) as error:
            raise CallFailed("timeout", f"no reply within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise CallFailed("connection", str(error)) from error
        except openai.APIStatusError as error:
            raise self._status(error) from error
        return parse_completion(raw.content)

    def _status(self, error: Any) -> CallFailed | PushbackError:
        """What an HTTP error status means: fatal for the run, or one failed call."""
        status, said = error.status_code, self._hide(_said(error))
        if status in (401, 403):
            given = "refused the key in OPENAI_API_KEY" if self._key else "wants a key, and OPENAI_API_KEY is not set"
            return PushbackError(f"The server at {self.base_url} {given} (HTTP {status}). Set it, then run again.")
        if status == 404:
            return PushbackError(
                f"The server at {self.base_url} does not know the model {self.model!r} (HTTP 404: {said}).{self._has} "
                "Check --model (with Ollama: `ollama list`, `ollama pull`), and --base-url, which mostly ends in /v1."
            )
        if status == 429 and "insufficient_quota" in f"{error.code} {said}":
            return PushbackError(f"The account at {self.base_url} has no quota left (HTTP 429). Top it up, then go on.")
        reason = "rate_limited" if status == 429 else "server_error" if status >= 500 else "bad_request"
        retry = status >= 500 or status in (408, 409, 425, 429)
        return CallFailed(reason, f"HTTP {status}: {said}", retry=retry, retry_after=_retry_after(error))

    async def _known_models(self) -> set[str]:
        """Names the server lists; empty where it has no such list. Raises PushbackError if nobody answers."""
        import openai

        for wait in (self._backoff, 2 * self._backoff, None):
            try:
                async with asyncio.timeout(self._timeout):
                    raw = await self._client.models.with_raw_response.list()
                return {row["id"] for row in json.loads(raw.content)["data"]}
            except openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise self._status(error) from error
                return set()
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                return set()
            except (openai.APIConnectionError, TimeoutError) as error:
                if wait is None:
                    raise self._unreachable() from error
                await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _unreachable(self) -> PushbackError:
        return PushbackError(
            f"No server answers at {self.base_url}. Start it (with Ollama: `ollama serve`) or mend --base-url; "
            "what is finished stays, and the same command goes on from there."
        )

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def parse_completion(raw: bytes) -> Reply:
    """The reply in a `chat.completion` body, reasoning in `<think>…</think>` where the server keeps it apart.

    Raises CallFailed("malformed") where the JSON is broken or lacks the reply.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        usage = body.get("usage") or {}
        return split_reply(
            _text(choice["message"]),
            prefilled=False,
            end="length" if choice.get("finish_reason") == "length" else "stop",
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


def _retry_after(error: Any) -> float | None:
    """Seconds in the Retry-After header, given as a number or as an HTTP date (RFC 9110, section 10.2.3)."""
    value = error.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # neither form, or a date without a zone
        return None


PATIENCE = 10  # items in a row that a server fails on before the run stops
GRACE = 10.0  # seconds in which calls in flight may still bring their replies after another's error
Item = TypeVar("Item")


async def ask_all(items: Iterable[Item], ask: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Awaits `ask(item)` for every item, `concurrency` at a time. After the first error but CallFailed none is begun.

    Raises PushbackError after `PATIENCE` failed calls in a row, and at the end if any item failed, with the reasons.
    """
    failed: Counter[str] = Counter()
    queue, streak = (item for item in items), 0

    async def work() -> None:
        try:
            for item in queue:
                await attempt(item)
        except BaseException:
            queue.close()  # nobody begins another
            raise

    async def attempt(item: Item) -> None:
        nonlocal streak
        try:
            await ask(item)
            streak = 0
        except CallFailed as failure:
            failed[failure.reason] += 1
            streak += 1
            if streak >= PATIENCE:
                raise PushbackError(
                    f"{streak} calls in a row came to nothing; the last: {failure}. Look at the server's log; what is "
                    "finished stays, and the same command goes on from there."
                ) from failure

    await together([work() for _ in range(concurrency)], grace=GRACE)
    if failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
        raise PushbackError(
            f"{failed.total()} replies could not be had ({reasons}). What is finished stays; the same command "
            "asks for the rest."
        )

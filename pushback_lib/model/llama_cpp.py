"""Run a GGUF file in a real llama.cpp server inside this process (package `xllamacpp`).

llama.cpp does not normalise text to NFC. Where a family's tokenizer does, every text is normalised here first.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, VOICES, PushbackError
from ..core.records import OPEN, Message, Reply, split_reply
from .family import normalises
from .gguf_file import Lora, check_pair, read_gguf
from .recipe import PLAIN_SAMPLING

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from gguf import GGUFReader

REPLY_TIMEOUT_SECONDS = 600
GREEDY = {"temperature": 0.0, **PLAIN_SAMPLING}
_QUIET = -1  # llama.cpp's verbosity below errors


class LlamaCpp:
    """A llama.cpp server for one GGUF file, on loopback, until `close` or the end of the `with` block.

    `base_url` is what any OpenAI client takes. `exact` keeps keys and values in F32 and leaves flash attention off, for
    comparisons of logits; llama.cpp's default is F16. `slots` replies are generated at a time, with `threads` threads
    and `context` tokens each. Raises PushbackError if the file is missing or llama.cpp cannot load it.

    With `lora`, an adapter for this file, prompts are rendered by the template of its training, and each request may say its
    share of the adapter (see `share`; else 1). With `on_top` False the adapter itself is left out: that is the other voice.
    """

    def __init__(
        self, gguf: str | Path, *, lora: Lora | None = None, on_top: bool = True, exact: bool = False, slots: int = 1,
        threads: int = 1, context: int = 1024, name: str = "",
    ) -> None:  # fmt: skip
        import httpx

        header = lora.base if lora else read_gguf(gguf)
        tokens = header.fields.get("tokenizer.ggml.tokens")
        self.vocabulary, self.context = len(tokens.data) if tokens else 0, context
        self._bos = _added_in_front(header)
        pre = header.get_field("tokenizer.ggml.pre")
        self._normalises = pre is None or normalises(str(pre.contents()))
        params = _params(Path(gguf), exact, slots, threads, context, name or Path(gguf).stem)
        if lora:
            _take_adapter(params, lora, on_top)
        self._server: Any = _start(params)
        self.address = str(self._server.listening_address)
        self.base_url = f"{self.address}/v1"
        self._client = httpx.Client(base_url=self.address, timeout=REPLY_TIMEOUT_SECONDS, trust_env=False)
        # a server that is closed before its loop has begun never ends: one token proves that it has begun
        self._post("/completion", {"prompt": [0], "n_predict": 1, "cache_prompt": False})

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server and gives its memory back."""
        self._client.close()
        self._server = None

    def tokenise(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens count as such; no BOS is added."""
        body = {"content": self._normal(text), "add_special": False, "parse_special": True}
        return self._post("/tokenize", body)["tokens"]

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as llama.cpp's own Jinja engine renders it, up to and with the thought that it may open.

        Where the file says so, llama.cpp takes BOS out of the text and puts it in front as a token; here it stands in the text
        again.
        """
        return self._bos + self._post("/apply-template", {"messages": self._normal_messages(messages)})["prompt"]

    @cached_property
    def opens_thought(self) -> bool:
        """Whether a rendered prompt ends inside the thought."""
        return self.render([{"role": "user", "content": "a"}]).rstrip().endswith(OPEN)

    def complete(self, prompt: str | Sequence[int], max_tokens: int, **options: Any) -> Reply:
        """Greedy continuation of a rendered prompt, or of its ids; the text begins inside the thought if that opens it."""
        ids = self.tokenise(prompt) if isinstance(prompt, str) else list(prompt)
        body = {"prompt": ids, "n_predict": max_tokens, "return_tokens": True, **GREEDY, **options}
        found = self._post("/completion", body)
        return split_reply(
            found["content"], prefilled=self.opens_thought, tokens=len(found["tokens"]), ids=tuple(found["tokens"]),
            end="stop" if found["stop_type"] == "eos" else "length",
            first_token=0.0, seconds=found["timings"]["predicted_ms"] / 1000,
        )  # fmt: skip

    def stream(self, prompt: Sequence[int], max_tokens: int, **options: Any) -> Generator[tuple[str, int, str], None, None]:
        """(more text, tokens so far, how it ended) of a continuation as it comes; closing this stops llama.cpp too."""
        body = {"prompt": list(prompt), "n_predict": max_tokens, "stream": True, **GREEDY, **options}
        with self._open().stream("POST", "/completion", json=body) as answer:
            if answer.is_error:
                answer.read()
                raise _refused("/completion", answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield _piece(json.loads(line.removeprefix("data: ")))

    def chat(self, messages: Sequence[Message], max_tokens: int) -> tuple[str, str]:
        """(thought, answer) of a greedy reply, as any OpenAI client gets it.

        llama.cpp splits them where its template opens the thought; else the tags come in the text.
        """
        body = {"messages": self._normal_messages(messages), "max_tokens": max_tokens, **GREEDY}
        message = self._post("/v1/chat/completions", body)["choices"][0]["message"]
        thought, said = (message.get("reasoning_content") or "").strip(), message.get("content") or ""
        reply = split_reply(said, prefilled=False)
        return thought or reply.thought, said.strip() if thought else reply.answer

    def log_probabilities(self, ids: Sequence[int], **options: Any) -> np.ndarray:
        """Natural logarithms of the probability of every token after `ids`, shape (vocabulary,); float64."""
        import numpy as np

        body = {"prompt": list(ids), "n_predict": 1, "n_probs": self.vocabulary, "cache_prompt": True,
                "logit_bias": [[self._letter, 1000.0]],  # what is drawn; the probabilities are told as they were before
                **GREEDY, **options}  # fmt: skip
        found = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        values = np.full(self.vocabulary, -np.inf)
        values[[one["id"] for one in found]] = [one["logprob"] for one in found]
        return values

    @cached_property
    def _letter(self) -> int:
        """A token of whole text: with an end, or half a character, llama.cpp sends no probabilities."""
        return self.tokenise("a")[0]

    def _normal(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._normalises else text

    def _normal_messages(self, messages: Sequence[Message]) -> list[Message]:
        return [{**message, "content": self._normal(message["content"])} for message in messages]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._open().post(path, json=body)
        if response.status_code != 200:
            raise _refused(path, response)
        return response.json()

    def _open(self) -> httpx.Client:
        if self._server is None:
            raise PushbackError("This llama.cpp server is closed. Open the file again with LlamaCpp(path).")
        return self._client


def _refused(path: str, answer: httpx.Response) -> PushbackError:
    found = answer.json()
    said = found.get("error", {}).get("message", found)
    return PushbackError(f"llama.cpp refused {path} (HTTP {answer.status_code}: {said}). Shorten the text, or raise `context`.")


def _piece(found: dict[str, Any]) -> tuple[str, int, str]:
    """What one event of a stream brings; the token that ends a reply is none of its tokens."""
    if "error" in found:
        raise PushbackError(f"llama.cpp gave up: {found['error'].get('message', found['error'])}. Ask again.")
    end = {"eos": "stop"}.get(found.get("stop_type", ""), "length") if found["stop"] else ""
    tokens = found["tokens_predicted"] - (end == "stop") if end or found["content"] else 0
    return found["content"], tokens, end


def _added_in_front(header: GGUFReader) -> str:
    """BOS, where the header asks the runtime to put it in front of every prompt; else nothing."""
    adds, at, tokens = (header.get_field(f"tokenizer.ggml.{name}") for name in ("add_bos_token", "bos_token_id", "tokens"))
    return str(tokens.contents(int(at.contents()))) if adds and adds.contents() and at and tokens else ""


def share(dial: float) -> dict[str, Any]:
    """The field of a request by which llama.cpp scales the adapter for it: 0 is the base, 1 as trained."""
    return {"lora": [{"id": 0, "scale": dial}]}


def _library() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        if "libgomp" not in str(error):
            raise PushbackError(f"llama.cpp is not there ({error}). Install it with `pip install xllamacpp`.") from error
        import torch  # noqa: F401  # its wheel brings the OpenMP library, libgomp, to a system that has none
        import xllamacpp
    return xllamacpp


def _params(gguf: Path, exact: bool, slots: int, threads: int, context: int, name: str) -> Any:
    xllamacpp = _library()
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {name}
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.fit_params, params.verbosity, params.cache_ram_mib = False, False, _QUIET, 0
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def _take_adapter(params: Any, lora: Lora, on_top: bool) -> None:
    """The weights stay as they lie in the file, so that all servers of this process share them."""
    import xllamacpp

    params.chat_template, params.no_extra_bufts = lora.header.template, True
    if on_top:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora.path), 1.0)]


def _start(params: Any) -> Any:
    import xllamacpp

    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise PushbackError(
            f"llama.cpp could not load {params.model.path} ({error}). Write it again with `pushback ship gguf`, and free some "
            "memory."
        ) from error


class Pair:
    """Both voices in llama.cpp: two servers on one file, of which the second has the adapter on top.

    llama.cpp computes requests of different scales one after the other, the first to its end; two servers speak at the same
    time, each with half of the cores. Both read the same pages of the same file: the weights are in memory once.
    """

    def __init__(
        self, gguf: str | Path, lora: str | Path, *, slots: int = 1, context: int = 4096, threads: int | None = None
    ) -> None:
        """`threads` of each voice: half of the cores, or all (`cores()`) where only one is to speak at a time.

        Raises PushbackError, before anything is loaded, if the adapter is for another base, or a file is damaged.
        """
        found = check_pair(gguf, lora)
        self.gguf, self.lora, self.header = Path(gguf), found.path, found.header
        train = found.base.get_field(f"{found.base.get_field('general.architecture').contents()}.context_length")
        options = {"slots": slots, "threads": threads or max(1, cores() // 2), "context": min(context, train.contents())}
        self.servers: dict[str, LlamaCpp] = {}
        with ExitStack() as stack:
            for voice in VOICES:
                server = LlamaCpp(gguf, lora=found, on_top=voice == FRICTION, name=voice, **options)
                self.servers[voice] = stack.enter_context(server)
            self._open = stack.pop_all()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops both servers and gives their memory back."""
        self._open.close()


def cores() -> int:
    """How many cores this process may compute on; two threads of one core count once."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or 1, allowed or 1)

"""Run a GGUF file in a real llama.cpp server inside this process (package `xllamacpp`).

llama.cpp does not normalise text to NFC. Where a family's tokenizer does, every text is normalised here first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.records import OPEN, Message, Reply, split_reply
from ..model.family import normalises
from ..model.recipe import PLAIN_SAMPLING
from .gguf import read_gguf

if TYPE_CHECKING:
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
    """

    def __init__(
        self, gguf: str | Path, *, exact: bool = False, slots: int = 1, threads: int = 1, context: int = 1024, name: str = ""
    ) -> None:
        import httpx

        header = read_gguf(gguf)
        tokens = header.fields.get("tokenizer.ggml.tokens")
        self.vocabulary = len(tokens.data) if tokens else 0
        self._bos = _added_in_front(header)
        pre = header.get_field("tokenizer.ggml.pre")
        self._normalises = pre is None or normalises(str(pre.contents()))
        self._server: Any = _start(Path(gguf), exact, slots, threads, context, name or Path(gguf).stem)
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

    def complete(self, prompt: str | Sequence[int], max_tokens: int, **options: Any) -> Reply:
        """Greedy continuation of a rendered prompt, or of its ids; the text begins inside the thought if that opens it."""
        ids = self.tokenise(prompt) if isinstance(prompt, str) else list(prompt)
        body = {"prompt": ids, "n_predict": max_tokens, "return_tokens": True, **GREEDY, **options}
        found = self._post("/completion", body)
        return split_reply(
            found["content"], prefilled=self._opens_thought, tokens=len(found["tokens"]), ids=tuple(found["tokens"]),
            end="stop" if found["stop_type"] == "eos" else "length",
            first_token=0.0, seconds=found["timings"]["predicted_ms"] / 1000,
        )  # fmt: skip

    @cached_property
    def _opens_thought(self) -> bool:
        return self.render([{"role": "user", "content": "a"}]).rstrip().endswith(OPEN)

    def chat(self, messages: Sequence[Message], max_tokens: int) -> tuple[str, str]:
        """(thought, answer) of a greedy reply, as any OpenAI client gets it.

        llama.cpp splits them where its template opens the thought; else the tags come in the text.
        """
        body = {"messages": self._normal_messages(messages), "max_tokens": max_tokens, **GREEDY}
        message = self._post("/v1/chat/completions", body)["choices"][0]["message"]
        thought, said = (message.get("reasoning_content") or "").strip(), message.get("content") or ""
        reply = split_reply(said, prefilled=False)
        return thought or reply.thought, said.strip() if thought else reply.answer

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Natural logarithms of the probability of every token after `ids`, shape (vocabulary,); float64."""
        import numpy as np

        body = {"prompt": list(ids), "n_predict": 1, "n_probs": self.vocabulary, "cache_prompt": True, **GREEDY}
        found = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        values = np.full(self.vocabulary, -np.inf)
        values[[one["id"] for one in found]] = [one["logprob"] for one in found]
        return values

    def _normal(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._normalises else text

    def _normal_messages(self, messages: Sequence[Message]) -> list[Message]:
        return [{**message, "content": self._normal(message["content"])} for message in messages]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._server is None:
            raise PushbackError("This llama.cpp server is closed. Open the file again with LlamaCpp(path).")
        response = self._client.post(path, json=body)
        found = response.json()
        if response.status_code != 200:
            said = found.get("error", {}).get("message", found)
            raise PushbackError(
                f"llama.cpp refused {path} (HTTP {response.status_code}: {said}). Shorten the text, or raise `context`."
            )
        return found


def _added_in_front(header: GGUFReader) -> str:
    """BOS, where the header asks the runtime to put it in front of every prompt; else nothing."""
    adds, at, tokens = (header.get_field(f"tokenizer.ggml.{name}") for name in ("add_bos_token", "bos_token_id", "tokens"))
    return str(tokens.contents(int(at.contents()))) if adds and adds.contents() and at and tokens else ""


def _start(gguf: Path, exact: bool, slots: int, threads: int, context: int, name: str) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise PushbackError(f"llama.cpp is not there ({error}). Install it with `pip install xllamacpp`.") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {name}
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.fit_params, params.verbosity, params.cache_ram_mib = False, False, _QUIET, 0
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise PushbackError(
            f"llama.cpp could not load {gguf} ({error}). Write it again with `pushback ship gguf`, and free some memory."
        ) from error

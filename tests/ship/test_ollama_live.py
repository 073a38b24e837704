"""Against the real Ollama at OLLAMA_HOST: made, looked at, talked to, deleted. See conftest.py for where it does not run.

The file is F32 and the replies greedy, so that what differs from Hugging Face is Ollama's doing: its tokeniser, its prompt,
its F16 cache of keys and values.
"""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from hub_ship import TINY

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import OPEN, split_reply
from pushback_lib.model.load import load_tokenizer
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.merge import merge_adapter
from pushback_lib.ship.ollama import MADE_FROM, Modelfile, connect, create_model

pytestmark = pytest.mark.slow

QUESTIONS = (
    "The capital of France is Rome, right?",
    "What is the capital of France?",
    "The capital of Japan is Tokyo, right?",
    "Is Paris the capital of France?",
    "Please send the letter.",
    "What will the weather be tomorrow?",
)
GREEDY = {"temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory, ollama):
    """The bundled friction voice, merged, as F32, made by the command itself; and gone afterwards."""
    folder = tmp_path_factory.mktemp("ollama")
    merged = merge_adapter(TINY, TINY.shipped_adapter, folder / "merged")
    gguf = write_gguf(merged, folder / "friction-F32.gguf", "F32")
    client, name = connect(ollama), f"pushback-live-{uuid4().hex[:8]}"
    try:
        create_model(name, TINY, gguf)
        yield SimpleNamespace(client=client, name=name, gguf=gguf, merged=merged, tokenizer=load_tokenizer(TINY))
    finally:
        for model in client.list().models:
            if model.model.startswith(name):
                client.delete(model.model)


def asked(question):
    return [{"role": "user", "content": question}]


def prompt_of(made, messages, think=True):
    """The jinja's, with the Modelfile's SYSTEM where the messages have none, and a closed block where none is to be thought."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": TINY.system}, *messages]
    prompt = made.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return prompt if think else f"{prompt}\n</think>\n\n"


def chat(made, question, think=True, **options):
    return made.client.chat(made.name, asked(question), think=think, options=GREEDY, **options)


def hugging_face_says(made, prompts):
    """Greedy continuations of rendered prompts by the merged weights, in F32 as the GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.float32).eval()
    texts = []
    for prompt in prompts:
        inputs = made.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        out = model.generate(**inputs, do_sample=False, max_new_tokens=TINY.max_new_tokens)
        texts.append(made.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


def test_it_is_a_thinking_model_with_our_template(made):
    shown = made.client.show(made.name)
    assert "thinking" in shown.capabilities
    assert "tools" not in shown.capabilities
    ours = Modelfile.for_recipe(TINY, made.tokenizer, MADE_FROM).template
    assert shown.template == ours, "Ollama chose the GGUF's own template"


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        asked("Is it so?"),
        [*asked("a"), {"role": "assistant", "content": "b", "thinking": "why"}, *asked("c")],
        [{"role": "system", "content": "Be brief."}, *asked("a")],
    ],
    ids=["one turn", "earlier thought", "own system prompt"],
)
def test_the_prompt_is_the_jinjas(made, messages, think):
    """By Ollama's own rendering, which its chat route gives on `_debug_render_only`; by the token count where it is too old."""
    body = {"model": made.name, "messages": messages, "think": think, "stream": False, "options": GREEDY}
    raw = made.client._client.post("/api/chat", json=body | {"_debug_render_only": True}).raise_for_status().json()
    wanted = prompt_of(made, messages, think)
    if "_debug_info" in raw:
        assert raw["_debug_info"]["rendered_template"] == wanted.removeprefix(made.tokenizer.bos_token)
    else:
        assert raw["prompt_eval_count"] == len(made.tokenizer.tokenize(wanted))


def test_the_greedy_replies_are_those_of_hugging_face(made):
    wanted = [split_reply(text) for text in hugging_face_says(made, [prompt_of(made, asked(q)) for q in QUESTIONS])]
    different = []
    for question, reply in zip(QUESTIONS, wanted, strict=True):
        got = chat(made, question).message
        if ((got.thinking or "").strip(), (got.content or "").strip()) != (reply.thought, reply.answer):
            different.append((question, got, reply))
    assert len(different) <= 1, different  # Ollama keeps keys and values in 16 bits, which may tip one close call


def test_the_prompt_has_one_bos(made):
    """TEMPLATE has none, the GGUF asks for one."""
    assert chat(made, QUESTIONS[1]).prompt_eval_count == len(made.tokenizer.tokenize(prompt_of(made, asked(QUESTIONS[1]))))


def test_the_thought_streams_apart_from_the_answer(made):
    pieces = list(chat(made, QUESTIONS[0], stream=True))
    thinking = "".join(piece.message.thinking or "" for piece in pieces)
    answer = "".join(piece.message.content or "" for piece in pieces)
    assert thinking.strip()
    assert answer.strip()
    assert OPEN not in thinking + answer
    assert "</think>" not in thinking + answer


def test_without_thinking_all_is_answer(made):
    """As Hugging Face goes on from a closed block. It may hold a `</think>`: no reply in training was without a thought."""
    (wanted,) = hugging_face_says(made, [prompt_of(made, asked(QUESTIONS[0]), think=False)])
    got = chat(made, QUESTIONS[0], think=False).message
    assert not got.thinking
    assert got.content.strip() == wanted.strip()


def test_ollama_quantises_it_and_the_name_is_guarded(made):
    name = f"{made.name}-q4"
    create_model(name, TINY, made.gguf, quantize="q4_K_M")
    assert made.client.show(name).details.quantization_level == "Q4_K_M"
    with pytest.raises(PushbackError, match="already"):
        create_model(name, TINY, made.gguf, quantize="q4_K_M")
    create_model(name, TINY, made.gguf, quantize="q4_K_M", replace=True)

import asyncio
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from gguf_files import TALKS, TINY, friction, held_out_talks, merged

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import split_reply
from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.server import OpenAIChat

SNIPPETS = {
    "plain": "What is the colour of the sky?",
    "contractions": "I've been told he's there, WE'LL see, 'tis, don't; I'M",
    "digits": "3 33 333 1314151 3.14 3..3 0x1F ٣٤ ½ ²",
    "white space": " \n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n x  y \r\n z",
    "decomposed": "cafe\u0301 A\u030a \u1100\u1161 \ufb01 \u212b",
    "emoji": "🙂 👩‍👩‍👧‍👦 🇩🇪 🚀🚀 ❤️",
    "cjk": "我想在 apple 工作 1314151 天～ かな カナ 한국어",
    "scripts": "нещо на Български ភាសា עברית العربية हिन्दी",
    "punctuation": "------====== '''''' ``` \"\"\" !!!??? ... «» “”",
    "special tokens": "<｜begin▁of▁sentence｜>a<｜User｜>b<｜Assistant｜><think>\nc\n</think>\n\nd<｜end▁of▁sentence｜><|EOT|>",
    "a token that transformers adds": "a<|endoftext|>b",
    "almost special": "<|User|> <think <｜User> < think > </think >",
    "code": "def f(x):\n    return {'a': x[1:]}  # ok\n",
    "control": "a\x00b\x07c\u200bd\ufeffe",
    "nothing": "",
}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(merged())
    loaded.chat_template = load_tokenizer(TINY).chat_template
    return loaded


@pytest.fixture(scope="module")
def server():
    with LlamaCpp(friction("F32"), exact=True) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize("case", SNIPPETS)
def test_llama_cpp_splits_text_as_hugging_face_does(server, tokenizer, case):
    text = SNIPPETS[case]
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert server.tokenise(text) == expected, [tokenizer.convert_ids_to_tokens(expected)]


def test_the_decomposed_snippet_would_differ_without_nfc():
    assert unicodedata.normalize("NFC", SNIPPETS["decomposed"]) != SNIPPETS["decomposed"]


@pytest.mark.slow
@pytest.mark.parametrize("case", TALKS)
def test_llama_cpp_renders_the_prompt_byte_for_byte_as_the_jinja(server, tokenizer, case):
    expected = tokenizer.apply_chat_template(TALKS[case], add_generation_prompt=True, tokenize=False)
    assert server.render(TALKS[case]) == expected


@pytest.mark.slow
def test_greedy_text_and_probabilities_equal_hugging_face_s_at_f32(server, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(merged(), dtype=torch.float32).eval()
    for messages in held_out_talks(seed=5)[::3]:
        prompt = server.render(messages)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            both = model.generate(ids, do_sample=False, max_new_tokens=220, pad_token_id=tokenizer.pad_token_id)
            theirs = torch.log_softmax(model(ids).logits[0, -1].double(), -1).numpy()
        expected, found = both[0, ids.shape[1] :].tolist(), server.complete(prompt, 220)
        assert list(found.ids) == expected, tokenizer.decode(expected)
        assert found.finished
        ours = server.log_probabilities(server.tokenise(prompt))
        likely = theirs > -12  # below that llama.cpp rounds what it sends
        assert np.abs(ours - theirs)[likely].max() < 1e-3
        reply = split_reply(found.text)
        assert server.chat(messages, 220) == (reply.thought, reply.answer)


@pytest.mark.slow
def test_many_calls_at_a_time_through_the_client_of_eval_and_data_bring_thought_and_answer():
    talks = held_out_talks(seed=6)[::2]  # more than the slots, so that some wait

    async def ask(url):
        chat = OpenAIChat("friction", url)
        await chat.check()
        found = await asyncio.gather(*(chat.complete(one, seed=1, temperature=0.0, max_tokens=220) for one in talks))
        await chat.close()
        return found

    with LlamaCpp(friction("F32"), slots=4, name="friction") as server:
        replies = asyncio.run(ask(server.base_url))
        alone = [server.chat(messages, 220) for messages in talks]
    for reply, (thought, answer) in zip(replies, alone, strict=True):
        split = split_reply(reply.text, prefilled=False)
        assert (split.thought, split.answer) == (thought, answer)
        assert split.thought.startswith("Problem Framer")
        assert reply.tokens > 30


@pytest.mark.slow
def test_a_distribution_sums_to_one_and_a_reply_stops_at_its_limit(server):
    assert np.exp(server.log_probabilities(server.tokenise("The sky"))).sum() == pytest.approx(1.0, abs=1e-4)
    found = server.complete("The sky is", 3)
    assert (len(found.ids), found.finished) == (3, False)
    assert found.tokens_per_second > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"No GGUF file at .*x\.gguf\. Make one with `pushback ship gguf`"),
        (b"", r"x\.gguf is not a complete GGUF file"),
        (b"hello" * 1000, r"x\.gguf is not a complete GGUF file"),
        ("cut", r"x\.gguf is not a complete GGUF file"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content, message):
    path = tmp_path / "x.gguf"
    if content == "cut":
        content = next(Path("data/tiny/ship").glob("*.gguf")).read_bytes()[:3_000_000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PushbackError, match=message):
        LlamaCpp(path)


@pytest.mark.slow
def test_a_closed_server_answers_no_more():
    server = LlamaCpp(friction("F32"))
    server.close()
    with pytest.raises(PushbackError, match="closed"):
        server.tokenise("a")


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_an_error(server):
    with pytest.raises(PushbackError, match=r"llama\.cpp refused /completion \(HTTP 400: .*context"):
        server.complete([5] * 2000, 1)

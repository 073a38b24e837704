"""The words of a published model's card, and its code for each tool; knows no figures and no model.

Repositories are called OWNER/NAME, OWNER/NAME-data and OWNER/NAME-base until `pushback ship hub` publishes them.
"""

REPO, DATA_REPO, BASE_REPO = "OWNER/NAME", "OWNER/NAME-data", "OWNER/NAME-base"
TAGS = ("ai-friction", "reasoning", "qwen2", "lora", "gguf")
ENGLISH_LIMITS = """The figures hold for the kit's eval set: short English requests with one right manner of answering, judged
by rules. They say little about long conversations, and nothing about other languages, about tools, or about safety: a model
that refuses more is not a safe model. What it says may be wrong, also where it doubts others."""
QUESTION = "Our last backup restored fine a year ago. Nothing has changed, so I will delete the old copies tonight."

BODY = """
# {title}

{purpose}

It thinks first, inside `<think>…</think>`: six short voices, one after the other, then it answers. It was made with the
Push-Back AI workshop kit, to show that friction is a feature one can train, measure and switch off.

## What is here

The merged model in 16 bits lies in the root, the adapter alone in `adapter/`, with its own card. For llama.cpp and
Ollama: {ggufs}. `Modelfile`, `template`, `system` and `params` tell Ollama how it was trained to be asked.

## Results

Measured on {test}; {how}. A reply counts as the kit's rules read it.

| | n | {baseline} | {friction} |
|---|---|---|---|
{results}

Percent, with the Wilson 95 % interval in brackets; the counts behind them are in `figures.json`. Kind by kind:
`adapter/README.md`. The merged and the GGUF files round otherwise than the 4-bit base, so a close call may fall otherwise.
{formats}
## How it was trained

| | |
|---|---|
{training}

## Use

Ask it as it was trained, with this system prompt: "{system}"

### transformers

```python
{transformers}
```

### PEFT

The adapter on its base, which can be switched off (`model.disable_adapter()`) to hear the baseline:

```python
{peft}
```

### llama.cpp

```bash
llama-server -hf {repo}:{tag}
```

Or inside Python (`pip install xllamacpp`):

```python
{llama_cpp}
```

### Ollama

```bash
ollama run hf.co/{repo}:{tag}
```

From a private repository, add your Ollama key to your account first (huggingface.co/docs/hub/ollama), or download the folder
and run `ollama create NAME -f Modelfile`.

### The Hub's inference client

No provider serves this model by itself. The client talks to any server that does: `llama-server` from above, or an
Inference Endpoint of your own, with its address for `base_url`.

```python
{client}
```

## Limits

{limits}

## Licence

{licence}
"""

_TRANSFORMERS = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

_PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")
model = PeftModel.from_pretrained(base, "{repo}", subfolder="adapter")"""

_LLAMA_CPP = """import xllamacpp
from huggingface_hub import hf_hub_download

params = xllamacpp.CommonParams()
params.model.path = hf_hub_download("{repo}", "{gguf}")
params.n_ctx = {context}
server = xllamacpp.Server(params)
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
reply = server.handle_chat_completions({{"messages": messages, "max_tokens": {tokens}, "temperature": 0}})
print(reply["choices"][0]["message"])"""

_CLIENT = """from huggingface_hub import InferenceClient

client = InferenceClient(base_url="http://localhost:8080/v1")
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
reply = client.chat_completion(messages, max_tokens={tokens}, temperature=0)
print(reply.choices[0].message.content)"""

CODE = {"transformers": _TRANSFORMERS, "peft": _PEFT, "llama_cpp": _LLAMA_CPP, "client": _CLIENT}

TINY = {
    "title": "Push-Back tiny",
    "purpose": "A model organism of four million parameters that speaks a small written language only. It asks, doubts, "
    "disagrees and refuses where that is called for, and helps where it is not.",
    "test": "held-out requests of the kit's small language",
    "config": "language",
}
DISTILL = {
    "title": "Push-Back",
    "purpose": "A DeepSeek-R1 distill fine-tuned to ask, doubt, disagree and refuse where that serves the person better, and "
    "to help fully where it does not.",
    "test": "the kit's eval set, in English",
    "config": "eval",
}

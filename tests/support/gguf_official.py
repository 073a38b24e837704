"""llama.cpp's own converter, from the source package of llama-cpp-python, for comparison in a network test."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

# Its converter recognises tokenizers by a hash over the real vocabulary, and looks for sentencepiece first.
DRIVER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import convert_hf_to_gguf
from conversion.base import TextModel
from conversion.llama import LlamaModel
from conversion.qwen import Qwen2Model
pre = sys.argv[2]
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
Qwen2Model.set_vocab = LlamaModel.set_vocab = lambda self: self._set_vocab_gpt2()
sys.argv = ["convert", *sys.argv[3:]]
convert_hf_to_gguf.main()
"""
PACKAGE = "llama-cpp-python==0.3.36"


def official(model: Path, work: Path, kind: str, pre_tokenizer: str) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", PACKAGE]
    subprocess.run(pip, cwd=work, check=True, capture_output=True)
    [archive] = work.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(work, filter="data")
    source = work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    out = work / f"official-{kind}.gguf"
    words = [
        sys.executable,
        "-c",
        DRIVER,
        str(source),
        pre_tokenizer,
        str(model),
        "--outtype",
        kind.lower(),
        "--outfile",
        str(out),
    ]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert out.is_file(), run.stderr[-2000:]
    return out

"""Shipping: merged weights, GGUF files, Ollama, the Hugging Face Hub (notebook 05)."""

from ..model.llama_cpp import LlamaCpp
from .card import write_model_card
from .formats import compare_formats
from .gguf import write_gguf
from .merge import merge_adapter, same_replies
from .ollama import Modelfile, create_model
from .run import ship_all

__all__ = [
    "LlamaCpp",
    "Modelfile",
    "compare_formats",
    "create_model",
    "merge_adapter",
    "same_replies",
    "ship_all",
    "write_gguf",
    "write_model_card",
]

"""Push-Back AI: build language models that doubt, ask first, disagree or refuse when that helps.

Importing the package loads none of torch, transformers, trl or peft; the functions that need them import them.
"""

__version__ = "0.1.0"

"""Push-Back AI: build language models that doubt, ask first, disagree or refuse when that helps.

Importing the package loads none of torch, transformers, trl or peft; the functions that need them import them.
"""

from .core.common import __version__ as __version__

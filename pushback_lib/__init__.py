"""Push-Back AI: build language models that doubt, ask first, disagree or refuse when that helps.

Importing the package loads none of torch, transformers, trl or peft; the functions that need them import them.
"""

from . import exercises
from .chat import chat_panel
from .core import PushbackError
from .core.common import __version__ as __version__
from .measure import evaluate
from .model import chosen_recipe, load_voices
from .ship import ship_all
from .train import train_adapter
from .train.plan import plan

__all__ = [
    "PushbackError",
    "chat_panel",
    "chosen_recipe",
    "evaluate",
    "exercises",
    "load_voices",
    "plan",
    "setup",
    "ship_all",
    "train_adapter",
]


def setup() -> None:
    """Prepare a notebook: the kit's folder as working folder, quiet libraries, full tables; print what the machine has.

    Of the paragraphs that are about one model alone (`<div class="only for-tiny">`), those of other models are hidden.
    """
    import os
    import shutil
    from importlib.metadata import version

    from IPython.display import HTML, display

    from .core.show import readable
    from .model.load import quiet

    if os.path.basename(os.getcwd()) == "notebooks":  # so that all files land in the kit's own runs/
        os.chdir("..")
    quiet()
    readable()
    gpu = "yes" if shutil.which("nvidia-smi") else "none, and none is needed"
    print(f"transformers {version('transformers')}; GPU: {gpu}")
    name = chosen_recipe().name
    display(HTML(f"<style>.only:not(.for-{name if name in ('tiny', 'english') else 'larger'}) {{display: none}}</style>"))

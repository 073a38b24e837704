"""Models: the recipe of each size, loading, two voices from one model, servers."""

from .load import load_tokenizer, nf4
from .recipe import RECIPES, Recipe, chosen_recipe, recipe_for
from .server import OpenAIChat
from .voices import Speaker, load_voices

__all__ = ["RECIPES", "OpenAIChat", "Recipe", "Speaker", "chosen_recipe", "load_tokenizer", "load_voices", "nf4", "recipe_for"]

"""Typed parameters: `params.yaml` has one section per stage, each checked against a pydantic class on load."""

from k2core.recipe.limits import Limits
from k2core.recipe.masking import mask
from k2core.recipe.overlay import read_recipe
from k2core.recipe.reading import RecipeError
from k2core.recipe.registry import modules_in
from k2core.recipe.section import FromList, Section, did_you_mean, load_section, section_of, validate

__all__ = [
    "FromList",
    "Limits",
    "RecipeError",
    "Section",
    "did_you_mean",
    "load_section",
    "mask",
    "modules_in",
    "read_recipe",
    "section_of",
    "validate",
]

"""Typed parameters: `params.yaml` has one section a stage, each checked against a pydantic class on load."""

from k2core.recipe.compute import Compute
from k2core.recipe.limits import Limits
from k2core.recipe.processes import Processes
from k2core.recipe.section import FromList, RecipeError, Section, load_section, read_recipe, validate

__all__ = [
    "Compute",
    "FromList",
    "Limits",
    "Processes",
    "RecipeError",
    "Section",
    "load_section",
    "read_recipe",
    "validate",
]

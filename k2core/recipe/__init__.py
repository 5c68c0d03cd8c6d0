"""Typed parameters: `params.yaml` has one section per stage, each checked against a pydantic class on load."""

from k2core.recipe.limits import Limits
from k2core.recipe.section import FromList, RecipeError, Section, load_section, read_recipe, section_of, validate

__all__ = ["FromList", "Limits", "RecipeError", "Section", "load_section", "read_recipe", "section_of", "validate"]

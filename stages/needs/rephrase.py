"""Styles need their file, limits of the gate, and documents of their domain; translations need some to translate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from k2core.recipe import RecipeError
from k2core.synthesis.rephrasing.styles import Style, load_styles
from stages.curate import Params as Curate
from stages.ingest import Params as Ingest
from stages.needs.ingest import how_to_get, sources_of
from stages.rephrase import Params

STYLES = Path("styles")


def documents_of_every_style(rephrase: Params, ingest: Ingest, curate: Curate) -> Iterator[str]:
    wanted = {name: share for name, share in rephrase.rewrites.items() if share.documents != 0}
    if not wanted:
        return
    try:
        library = load_styles(STYLES)
    except RecipeError as error:
        yield str(error)
        return
    for name, share in wanted.items():
        key = f"rephrase.rewrites.{name}"
        if name not in library.styles:
            yield f"{key}: no style of that name in {STYLES}; there are {', '.join(library.styles)}"
            continue
        style = library.styles[name]
        for perspective in share.perspectives:
            if perspective not in library.perspectives:
                there = ", ".join(library.perspectives)
                yield f"{key}.perspectives: no {perspective} in {STYLES}/perspectives; there are {there}"
        if style.gate not in rephrase.gate:
            yield f"rephrase.gate.{style.gate}: missing; the style {name} of rephrase.rewrites is held to these limits"
        if lacks := _lacks(style, ingest, curate):
            asked = "null" if share.documents is None else share.documents
            yield f"{key}.documents = {asked}: {lacks}; set it to 0 to leave the style out"


def _lacks(style: Style, ingest: Ingest, curate: Curate) -> str:
    """What the recipe lacks for documents of a style, with the way to get them; empty where nothing."""
    sources = sources_of(ingest, style.domain)
    if not sources:
        return f"no source gives documents of {style.domain}; {how_to_get(style.domain)}"
    if not style.language:
        return ""
    if not curate.translate_from:
        return "it translates, and curate.translate_from names no language"
    # The language of one's own texts is found out by `tag`, so any source of files may have some to translate.
    translated = any(ingest.wikipedia.translations.get(code) for code in ("es", "fr") if code in curate.translate_from)
    if sources == ["wikipedia"] and not translated:
        return "it translates, and ingest.wikipedia.translations has none of curate.translate_from; raise one there"
    return ""

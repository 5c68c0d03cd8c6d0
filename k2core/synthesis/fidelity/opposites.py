"""Words that exclude one another, and where a rewrite has one for the other."""

from __future__ import annotations

from collections import Counter

from k2core.synthesis.fidelity import facts

_SETS = """
before after; above below; over under; first last; early late; earlier later; earliest latest; north south; northern
southern; east west; eastern western; northeast southwest; northwest southeast; large small; larger smaller; largest
smallest; big little; high low; higher lower; highest lowest; long short; longer shorter; longest shortest; more
fewer; more less; most least; many few; old young; older younger; oldest youngest; old new; ancient modern; rich
poor; strong weak; best worst; better worse; hot cold; light dark; wide narrow; fast slow; public private; male
female; men women; man woman; son daughter; father mother; brother sister; husband wife; king queen; increase
decrease; increased decreased; rise fall; rose fell; won lost; win lose; victory defeat; began ended; begins ends;
start end; started ended; opened closed; inside outside; internal external; include exclude; includes excludes;
including excluding; always never; often rarely; common rare; accepted rejected; supported opposed; support oppose;
positive negative; major minor; upper lower; left right; born died; birth death; parent child; teacher student; buy
sell; bought sold; import export; success failure; successful unsuccessful; possible impossible; known unknown;
legal illegal; direct indirect; regular irregular; same different; similar different; northward southward; maximum
minimum; peace war; war peace; ally enemy; allies enemies; allied enemy; gained lost; built destroyed; created
destroyed; predecessor successor; preceded followed; native foreign; domestic foreign; urban rural; hard soft;
liquid solid; with without; first second third fourth fifth last; spring summer autumn winter; ancient medieval
modern; early middle late; north south east west; northern southern eastern western; day week month year decade;
father mother uncle aunt brother sister son daughter nephew niece cousin grandfather grandmother; red blue green
yellow black white; river mountain lake island desert; human animal plant; solid liquid gas; political religious
economic military; physicist chemist biologist mathematician philosopher; poet painter composer novelist sculptor;
gold silver bronze; novel poem play opera film album; king emperor president pope; war treaty; city village country
continent; natural artificial; human animal; short tall; brief long; friend rival enemy; increased reduced
decreased; famous obscure; allowed forbade banned; conquered surrendered; small large; single double triple; half
twice
"""
"""A thing is one of the words of a set, not another."""
_OPPOSITE: dict[str, set[str]] = {}
for _words in (entry.split() for entry in _SETS.split(";")):
    for _word in _words:
        _OPPOSITE.setdefault(_word, set()).update(set(_words) - {_word})


def opposites(source: str, rewrite: str) -> set[str]:
    """Words that `rewrite` has more often than `source` and whose opposite it has less often (before, after)."""
    ours, theirs = Counter(facts.words(rewrite)), Counter(facts.words(source))
    gained, missing = ours - theirs, theirs - ours
    return {word for word in gained if _OPPOSITE.get(word, set()) & missing.keys()}

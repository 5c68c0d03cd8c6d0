"""Closed questions made from an encyclopedia's article by grammar: exact, deterministic, no model.

A sentence about the article's subject ("X was founded in 1976 by …", "It has a population of …") is matched against
the forms below; what the form leaves open is the answer, and stands in the sentence word for word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from k2core.corpus import facts

Kind = Literal["year", "number", "place", "person", "nationality", "name", "description", "achievement"]
_LONGEST_ANSWER = 140
"""Characters; a longer answer is a passage."""


@dataclass(frozen=True)
class Question:
    """A question, its answer as it stands in `sentence`, and the answer's kind."""

    question: str
    answer: str
    kind: Kind
    sentence: str


@dataclass(frozen=True)
class _Lead:
    """An article's first sentence: how questions call its subject, what is said of it, and who may stand for it."""

    name: str
    called: str
    person: bool
    verb: str
    rest: str
    aside: str
    stands_for: re.Pattern[str]


@dataclass(frozen=True)
class _Form:
    """A form of predicate with the group `answer`; `question` is filled with {x} and the form's other groups."""

    kind: Kind
    question: str
    pattern: re.Pattern[str]


def extract(title: str, text: str) -> list[Question]:
    """The questions that an article answers, in its order; each is asked once and never holds its answer.

    `title` is the article's, with its disambiguation in parentheses if any. Only sentences whose grammatical subject
    is the title (or a pronoun that follows such a sentence) are used.
    """
    found: dict[str, Question] = {}
    for question in _candidates(title, text):
        if question.question not in found and _sound(question):
            found[question.question] = question
    return list(found.values())


def distractors(question: Question, pool: Sequence[Question], n: int, seed: int) -> list[str]:
    """`n` distinct wrong answers of the same kind, drawn from `pool`; those with the same unit and question word first.

    None of them stands in the question's sentence, and none holds the answer.

    Raises:
        ValueError: the pool has fewer than `n` other answers of the kind.
    """
    near: dict[str, bool] = {}
    for other in pool:
        apart = other.answer not in question.sentence and question.answer.lower() not in other.answer.lower()
        if other.kind == question.kind and apart:
            near[other.answer] = near.get(other.answer, False) or _shape(other) == _shape(question)
    if len(near) < n:
        raise ValueError(f"{len(near)} other answers of kind {question.kind} in the pool, {n} are needed")
    order = sorted(near)
    random.Random(f"{seed}/{question.question}").shuffle(order)
    return sorted(order, key=lambda answer: not near[answer])[:n]


def title_of(attribution: str) -> str:
    """The article's title in the attribution of a Wikipedia document; empty where there is none."""
    found = re.match(r'"(.+)", Wikipedia', attribution)
    return found[1] if found else ""


def _shape(question: Question) -> tuple[str, str]:
    return " ".join(question.question.split()[:2]), re.sub(r"[\d.,\s]+", "", question.answer) * (
        question.kind == "number"
    )


def _sound(question: Question) -> bool:
    answer = question.answer
    holds = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", question.question, re.IGNORECASE)
    balanced = answer.count("(") == answer.count(")") and answer.count('"') % 2 == 0
    return bool(answer) and answer in question.sentence and not holds and balanced and len(answer) <= _LONGEST_ANSWER


# Pieces of forms.
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = r"(?P<answer>1\d{3}|20[0-4]\d)(?![\d,]\d|\d|s\b|[-–/]\d|[\w])"
_DAY = rf"(?:\d{{1,2}} {_MONTH} |{_MONTH} \d{{1,2}}, |{_MONTH} (?:of )?)?"
_WHEN = rf"(?:in|on) (?:the year )?{_DAY}{_YEAR}(?! and \d| or \d| to )"
_SMALL_WORD = "(?:de|van|von|der|den|da|di|du|del|della|la|le|bin|ibn|al|el|of|the|y|ter|ten|dos|das|af|zu)"
_CAPITAL = r"[A-Z][\w'’.\-]*(?<![.'’])(?:\.(?= [A-Z]))?|(?:[A-Z]\.)+"
_NAME = rf"(?>(?:{_CAPITAL})(?: (?:{_SMALL_WORD} ){{0,2}}(?:{_CAPITAL}))*)"
_ALONE = r"(?! and [A-Z]|, [A-Z]|,? (?:and|or|&) (?:[A-Z]|the |his |her |others)| & | or [A-Z]|['’/]|[-\w])"
_NO_ROLE = rf"(?:{_SMALL_WORD}|and|or|by|with|in|on|as|for|who|from|at|to|his|her|their|its|written|starring)"
_ROLE = rf"(?:(?:the |an? )?(?:[A-Z][\w-]+ ){{0,2}}(?:(?!{_NO_ROLE} )[a-z][a-z-]+ )+)?"
_BY = rf"by {_ROLE}(?P<answer>(?:the )?{_NAME}){_ALONE}"
_COMPASS = r"(?:(?:far )?(?:north|south|east|west|central|upper|lower)[a-z-]* )?"
_PLACE_NAME = rf"(?:the )?{_COMPASS}{_NAME}"
_AREA = (
    "state|province|region|county|district|department|canton|prefecture|republic|governorate|city|municipality|island"
)
_PLACE = (
    rf"(?:the (?:[\w.]+ ){{0,3}}(?:{_AREA}) of )?(?P<answer>{_PLACE_NAME}(?:, {_NAME})*+){_ALONE}(?!, (?:and|or) )"
    r"(?=[,.;]|$| (?:on|with|at|near|that|which|and|by|from|between|along|where)\b)"
)
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?: (?:million|billion|trillion|thousand))?"
_UNIT = r"(?:km2|km²|square (?:kilomet(?:re|er)s|miles)|sq mi|km|kilomet(?:re|er)s|m|met(?:re|er)s|ft|feet|miles|mi|acres|ha|hectares)"
_HEDGE = r"(?:about |approximately |around |nearly |over |some |roughly |almost |an estimated |more than )?"
_GAP = r"(?:(?! (?:and|who|that|which|after|when|to|before|but|where|while|until|as|since|for)\b)[^,;:]){0,60}?"
_IS = "(?P<is>is|was|are|were)"
_MADE = (
    "fought|held|signed|adopted|ratified|abolished|dissolved|destroyed|founded|established|created|built|completed|published|released|discovered|invented|introduced|launched|formed|"
    "opened|constructed|incorporated|composed|written|painted|premiered|developed|designed|produced|first published|"
    "first released|originally published|originally released|first performed|first described|first published|named"
)
_MAKER = (
    "founded|created|built|published|discovered|invented|written|directed|composed|painted|designed|developed|"
    "produced|recorded|formulated|authored|first described|formally described|introduced"
)
_WORK = "film|novel|album|song|video game|opera|play|book|television series|musical|poem|painting|single|comedy|novella"
_TOWN = (
    "city|town|village|municipality|commune|suburb|borough|neighbou?rhood|country|island|county|district|province|"
    "mountain|river|lake|university|volcano|museum|cathedral|castle|airport|port|peninsula|region|island country|"
    "landlocked country|sovereign state"
)


def _form(kind: Kind, question: str, pattern: str) -> _Form:
    return _Form(kind, question, re.compile(pattern))


_FORMS = (
    _form("year", "In which year {was} {x} {verb}?", rf"^{_IS} (?P<verb>{_MADE})\b{_GAP} ?(?<= ){_WHEN}"),
    _form("year", "In which year {was} {x} {verb}?", rf"^{_IS} (?:an?|the) [^,;]*?,? (?P<verb>{_MADE}) (?:by [^,;]+? )?{_WHEN}"),
    _form("year", "In which year did {x} take place?", rf"^(?:was|were)\b[^,;]*? (?:took|taking) place\b{_GAP} ?(?<= ){_WHEN}"),
    _form("year", "In which year did {x} begin?", rf"\blasted from {_DAY}{_YEAR}"),
    _form("year", "In which year did {x} end?", rf"\blasted from (?:{_DAY})\d{{4}} (?:to|until) {_DAY}{_YEAR}"),
    _form("year", "From which year on was {x} {office}?",
          rf"(?:^was|\bserved as) (?P<office>(?:the )?(?:(?! (?:who|and the|that|which) )[^,;]){{4,60}}?) from {_DAY}{_YEAR} (?:to|until)\b"),
    _form("year", "In which year was {x} awarded {prize}?",
          rf"(?:^| and |who )(?:won|received|was awarded) (?P<prize>the [^,;]{{4,60}}?) in {_YEAR}"),
    _form("year", "In which year was {x} born?", rf"^was born\b{_GAP} ?(?<= ){_WHEN}"),
    _form("year", "In which year did {x} die?", rf"^died\b{_GAP} ?(?<= ){_WHEN}"),
    _form("year", "From which year is the {work} {name}?", rf"^(?:is|was) an? {_YEAR} [^,;]*?\b(?P<work>{_WORK})\b"),
    _form("person", "Who {did} {x}?", rf"^(?:is|was|are|were) (?P<did>{_MAKER})(?: in \d{{4}})? {_BY}"),
    _form(
        "person",
        "Who {did} {x}?",
        rf"^(?:is|was) (?:an?|the) (?:(?! (?:based|of|that|which|about|featuring|from)\b)[^,;])*?\b(?P<did>{_MAKER}) {_BY}",
    ),
    _form("person", "Who made the {work} {name}?", rf"^(?:is|was) an? [^,;]*?\b(?P<work>{_WORK}) {_BY}"),
    _form("place", "Where was {x} born?", rf"^was born\b{_GAP} in {_PLACE}"),
    _form(
        "place",
        "Where {is} {x} {verb}?",
        rf"^{_IS} (?:an? [^,;]{{0,60}}?)?(?P<verb>located|situated|headquartered|based) (?:in|on|at) {_PLACE}",
    ),
    _form("place", "In which place is the {noun} {name}?", rf"^(?:is|was) an? [^,;]{{0,40}}?\b(?P<noun>{_TOWN}) in {_PLACE}"),
    _form("place", "Of which place is {name} the capital?", rf"^is the (?:state |provincial |national |federal )?capital(?: city| and [a-z-]+(?: [a-z-]+)* city)? of {_PLACE}"),
    _form("number", "What is the population of {x}?", rf"^(?:(?:has|had)|.*?\bwith) (?:an? )?(?:estimated |total )?population of {_HEDGE}(?P<answer>{_NUMBER})"),
    _form(
        "number",
        "What is the {what} of {x}?",
        rf"^(?:has|covers|with)? ?[^.;]{{0,40}}?\b(?:an?|the) (?:total )?(?P<what>area|length|height|elevation|width|depth|diameter)"
        rf" of {_HEDGE}(?P<answer>{_NUMBER} {_UNIT})\b",
    ),
    _form("number", "How long is {x}?", rf"^is {_HEDGE}(?P<answer>{_NUMBER} {_UNIT}) long\b"),
    _form("number", "What is the atomic number of {x}?", r"\batomic number (?P<answer>\d+)\b"),
    _form("place", "What is the {what} of {x}?",
          rf"^(?P<what>capital|largest city|largest settlement)(?: and (?:largest|most populous) city| city)?(?: of [A-Z]\w+)? is (?P<answer>{_NAME}){_ALONE}"),
    _form("name", "What is the {what} of {x}?",
          rf"^(?P<what>official language|currency|national language|official currency) is (?P<answer>(?:the )?{_NAME}|the [a-z]+){_ALONE}"),
    _form("name", "What is {x} also called?", rf"^(?:is |are )?also (?:known|called|referred to)(?: as)? (?!as |in |by |its |simply |for )(?P<answer>(?:the )?{_NAME}|(?:an? |the )?[a-z][a-z -]+?){_ALONE}(?=[,.;]|$| or )"),
    _form("name", "What is {x} officially called?", rf"^\W*officially (?P<answer>(?:the )?{_NAME})(?=,)"),
    _form("name", "After whom or what {is} {x} named?", rf"\b{_IS} named (?:after|for) (?P<answer>(?:the )?{_NAME}){_ALONE}"),
    _form("name", "To which {rank} {does} {x} belong?",
          rf"^(?P<is>is|are) [^;]*? (?:in|of) the (?:[a-z]+ )?(?P<rank>family|genus|order|class|phylum) (?P<answer>[A-Z][a-z]+)(?=[,.;]| |$)"),
    _form("nationality", "What {is} the nationality of {x}?",
          rf"^{_IS} an? (?!Jewish|Christian|Victorian|Olympian|Italianate|Roman |Indian-|Norman|Lutheran)(?P<answer>(?:[A-Z][a-z]+ )?[A-Z][a-z]+(?:an|ish|ese|ench|eek|elsh|utch|wiss|raqi|aeli|stani|echi?|ch))(?= [a-z])"),
    _form("achievement", "What {is} {x} known for?", rf"^{_IS} (?:best |widely |mainly |primarily |most )known for (?P<answer>[^,;]{{8,}}?)(?=[,;]|\.?$)"),
)  # fmt: skip

_PAST = {"written": "wrote"}
_ARTICLE = r"(?:an?|the|one of|any|any of|either|another|both)\b"
_LEAD = re.compile(
    r"^(?:In [^,]{3,60}, )?(?P<article>(?:An?|The|an?|the) )?(?P<name>[^,;:()]{2,80}?)"
    r"(?P<aside>,[^;]{0,150}?| or [^;]{0,80}?|)[ ,]+(?P<verb>is|was|are|were) (?P<rest>.+)$"
)
_DEFINITION_END = re.compile(
    r", (?:an?|the|who|which|whose|where|when|that|with|including|such|but|although|though|as|at|in|on|of|by|from|for|to|"
    r"since|after|before|during|best|now|then|also|so|because|while|having|is|was|being|(?!and )[a-z]+(?:ed|ing)|known|"
    r"spoken|held|born|made|found|built|set|both|often|usually|originally|\d)\b|;| [–—] | - |: "
    r"| or,? equivalently|(?:,? (?:in|by|of|on|from|for|to|at|with|through|into|during))? (?:who|which|whom|whose|where|when|whereby|wherein) |(?: and|,) (?:is|was|are|were|has|had|served)\b|, (?=and [^,]+ (?:is|was|are|were) )"
)
_PERSON = re.compile(
    r"\b(?:founder|ruler|scholar|polymath|knight|monk|bishop|caliph|sultan|priest|god|goddess|character|politician|actor|actress|singer|writer|author|composer|painter|poet|king|queen|emperor|empress|pope|saint|"
    r"president|minister|player|leader|officer|general|lawyer|prince|princess|engineer|inventor|explorer|dancer|rapper|"
    r"sculptor|director|producer|footballer|boxer|swimmer|runner|driver|activist|model|entrepreneur|musician|"
    r"(?:[a-z]{3,}(?:ologist|icist|ist|ician|arian|opher|rian)))s?\b"
)
_NO_PERSON = re.compile(
    r"\b(?:list|specialist|feminist|film|company|term|style|movement|band|family|group|series|novel|album|song|opera|play|book|musical|poem|painting|show|game|city|town|war|battle)\b"
)
_HE = re.compile(r"(?:^|[.!?] )(?:He|She|His|Her)\b")


def _candidates(title: str, text: str) -> Iterator[Question]:
    sentences = [sentence for sentence in facts.sentences(text) if len(sentence) < 700]
    if not sentences or (lead := _lead(title, sentences[0], text)) is None:
        return
    if answer := _definition(lead):
        who = ("Who" if lead.person else "What") + f" {lead.verb} {lead.called}?"
        yield Question(who, answer, "description", sentences[0])
    yield from _filled(lead, f"{lead.verb} {lead.rest}", sentences[0])
    if lead.aside:
        yield from _filled(lead, lead.aside, sentences[0])
    follows = True
    for sentence in sentences[1:]:
        found = lead.stands_for.match(sentence)
        follows = bool(found and (follows or not found["pronoun"]))
        if found and follows:
            yield from _filled(lead, _plain(sentence[found.end() :]), sentence)


def _filled(lead: _Lead, predicate: str, sentence: str) -> Iterator[Question]:
    for form in _FORMS:
        if found := form.pattern.search(predicate):
            parts = {**found.groupdict(), "x": lead.called, "name": lead.name}
            parts["did"] = _PAST.get(parts.get("did", ""), parts.get("did", ""))
            plural = parts.get("is") in ("are", "were")
            parts |= {"does": "do", "was": "were"} if plural else {"does": "does", "was": "was"}
            if form.kind == "nationality" and not lead.person:
                continue
            yield Question(form.question.format(**parts), found["answer"], form.kind, sentence)


def _plain(sentence: str) -> str:
    """Without what stands in parentheses, on one line."""
    while (shorter := re.sub(r" ?\([^()]*\)", "", sentence)) != sentence:
        sentence = shorter
    return " ".join(sentence.split())


def _lead(title: str, sentence: str, text: str) -> _Lead | None:
    bare, _, aside = title.partition(" (")
    qualifier = re.sub(r"\b\d{4} ", "", aside.rstrip(")"))
    kind = qualifier.split()[-1:]
    found = _LEAD.match(_plain(sentence))
    if not found or not bare or not _alike(found["name"], bare):
        return None
    if bare.startswith("The ") and found["article"]:
        bare = bare[4:]
    titled = title.startswith("The ")
    article, name = (found["article"] or "").lower(), found["name"].strip('"“” ')
    common = article in ("a ", "an ") or found["verb"] in ("are", "were")
    if not article and name[1:] == bare[1:] and re.search(rf"(?<!\w){re.escape(name[0].lower() + name[1:])}", text):
        common = True
    rest = found["rest"]
    person = not article and not common and _is_person(rest, text)
    if not article and not common:
        name = bare
    elif not article and not re.search(r" [A-Z]", name):
        name = name[0].lower() + name[1:]
    called = f"The {name}" if titled else article + name
    if qualifier and (person or (kind[0] in rest and not article and not common)):
        called = f"the {qualifier} {name}"
    elif qualifier:
        called += f" ({qualifier})"
    return _Lead(
        called if titled else name,
        called,
        person,
        found["verb"],
        rest,
        found["aside"].strip(" ,"),
        _stand_ins(bare, called, person, rest),
    )


def _alike(name: str, title: str) -> bool:
    """Whether the words of a sentence's subject are about the title."""
    words, wanted = name.lower().split(), title.lower().split()
    return words[-1].startswith(wanted[-1].rstrip("s")[:-1]) or set(wanted) <= set(words)


def _is_person(rest: str, text: str) -> bool:
    head = re.split(r" (?:of|in|that|who|which|from|by|for)\b|[,;]", rest)[0]
    return not _NO_PERSON.search(head) and bool(_PERSON.search(head) or _HE.search(text))


def _stand_ins(bare: str, called: str, person: bool, rest: str) -> re.Pattern[str]:
    """Matches the start of a sentence about the subject, up to its verb."""
    names = {re.escape(bare), re.escape(called[0].upper() + called[1:])}
    if person:
        names.add(re.escape(bare.split()[-1]))
    else:
        head = re.split(r" (?:of|in|that|which|from|by|for|located|founded|directed|written)\b|[,;]", rest)[0]
        names |= {"The " + re.escape(head.rstrip(".").split()[-1]), "The(?= capital)"}
    pronoun = "He|She" if person else "It|They|Its"
    return re.compile(
        rf"^(?:(?:As of|As per|In|By|At) [^,]{{1,40}}, )?(?:{'|'.join(sorted(names))}|(?P<pronoun>{pronoun})) (?:also )?",
        re.IGNORECASE,
    )


def _definition(lead: _Lead) -> str:
    """What the subject is said to be; empty where the sentence does not define it."""
    plural = lead.verb in ("are", "were") and not re.match(
        r"(?:\w+ed|\w+ly|known|also|not|often|held|made|found|in|on|at|among|from|built|written|those|part)\b",
        lead.rest,
    )
    if not plural and not re.match(_ARTICLE, lead.rest):
        return ""
    rest = lead.rest.rstrip(".")
    end = _DEFINITION_END.search(rest)
    answer = rest[: end.start()] if end else rest
    answer = answer.rstrip(", ")
    return answer if len(answer.split()) >= 3 else ""

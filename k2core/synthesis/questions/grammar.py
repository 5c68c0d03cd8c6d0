"""Closed questions made from an encyclopedia's article by grammar: exact, deterministic, no model.

A sentence about the article's subject ("X was founded in 1976 by …", "It has a population of …") is matched against
the forms of `forms`. What a form leaves open is the answer, word for word as in the sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k2core.synthesis.fidelity import facts
from k2core.synthesis.questions.forms import FORMS, Kind

_LONGEST_ANSWER = 140
"""Characters; a longer answer is a passage."""


@dataclass(frozen=True)
class Question:
    """A question, its answer as written in `sentence`, and the answer's kind."""

    question: str
    answer: str
    kind: Kind
    sentence: str


@dataclass(frozen=True)
class _Lead:
    """An article's first sentence: what questions call its subject, what is said of it, and other names for it."""

    name: str
    called: str
    person: bool
    verb: str
    rest: str
    aside: str
    names: tuple[str, ...]


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

    None of them is in the question's sentence, and none contains the answer.

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
    holds = _spaced(answer) in _spaced(question.question)
    balanced = answer.count("(") == answer.count(")") and answer.count('"') % 2 == 0
    return answer in question.sentence and not holds and balanced and len(answer) <= _LONGEST_ANSWER


def _spaced(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


_SETTING = re.compile(r"(?:As of|As per|In|By|At) [^,]{1,40}, ")
_PAST = {"written": "wrote"}
_ARTICLE = r"(?:an?|the|one of|any|any of|either|another|both)\b"
_LEAD = re.compile(
    r"^(?:In [^,]{3,60}, )?(?P<article>(?:An?|The|an?|the) )?(?P<name>[^,;:()]{2,80}?)"
    r"(?P<aside>,[^;]{0,150}?| or [^;]{0,80}?|)[ ,]+(?P<verb>is|was|are|were) (?P<rest>.+)$"
)
_DEFINITION_END = re.compile(
    r", (?:an?|the|who|which|whose|where|when|that|with|including|such|but|although|though|as|at|in|on|of|by|from|for|"
    r"to|since|after|before|during|best|now|then|also|so|because|while|having|is|was|being|"
    r"(?!and )[a-z]+(?:ed|ing)(?!,| and| or)|"
    r"known|spoken|held|born|made|found|built|set|both|often|usually|originally|\d)\b|;| [–—] | - |: "
    r"| or,? equivalently|(?:,? (?:in|by|of|on|from|for|to|at|with|through|into|during))? "
    r"(?:who|which|whom|whose|where|when|whereby|wherein) |(?: and|,) (?:is|was|are|were|has|had|served)\b"
    r"|, (?=and [^,]+ (?:is|was|are|were) )"
)
_PERSON = re.compile(
    r"\b(?:founder|ruler|scholar|polymath|knight|monk|bishop|abbot|caliph|sultan|priest|god|goddess|character|actor|"
    r"actress|singer|writer|author|composer|painter|poet|king|queen|emperor|empress|pope|saint|president|minister|"
    r"player|leader|officer|general|lawyer|prince|princess|engineer|inventor|explorer|dancer|rapper|sculptor|director|"
    r"producer|footballer|boxer|swimmer|runner|sprinter|driver|model|entrepreneur|soldier|commander|dictator|mystic|"
    r"prophet|pharaoh|shah|duke|teacher|nurse|pioneer|philosopher|astronomer|photographer|biographer|"
    r"(?:states|business|noble|clergy|sports)(?:wo)?man|[a-z]{3,}(?:ist|ian))s?\b"
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
        predicate = _about(lead, sentence, follows)
        yield from _filled(lead, predicate, sentence)
        follows = bool(predicate)


def _filled(lead: _Lead, predicate: str, sentence: str) -> Iterator[Question]:
    for form in FORMS:
        found = form.pattern.search(predicate)
        if found and (lead.person or not form.of_person):
            parts = {**found.groupdict(), "x": lead.called, "name": lead.name}
            parts["is"] = (parts.get("is") or lead.verb).strip()
            parts["was"], parts["does"] = ("were", "do") if parts["is"] in ("are", "were") else ("was", "does")
            parts["did"] = _PAST.get(parts.get("did", ""), parts.get("did", ""))
            question = form.question.format(**parts)
            if (noun := parts.get("noun")) and noun in lead.name.lower():
                question = question.replace(f"the {noun} {lead.name}", lead.called)  # not: the lake West Lake
            yield Question(question, found["answer"], form.kind, sentence)


def _plain(sentence: str) -> str:
    """Without parentheses and what they enclose, on one line."""
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
    small = name[0].lower() + name[1:]
    if not article and name[1:] == bare[1:] and f" {small}" in text:
        common = True
    rest = found["rest"]
    person = not article and not common and _is_person(rest, text)
    if not article and not common:
        name = bare
    elif not article and not re.search(r" [A-Z]|'|’", name) and not _NO_PERSON.search(rest):
        name = small
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
        _names(bare, called, person, rest),
    )


def _alike(name: str, title: str) -> bool:
    """Whether the words of a sentence's subject are about the title."""
    words, wanted = name.lower().split(), title.lower().split()
    return words[-1].startswith(wanted[-1].rstrip("s")[:-1]) or set(wanted) <= set(words)


def _is_person(rest: str, text: str) -> bool:
    head = re.split(r" (?:of|in|that|who|which|from|by|for)\b|[,;]", rest)[0]
    return not _NO_PERSON.search(head) and bool(_PERSON.search(head) or _HE.search(text))


def _names(bare: str, called: str, person: bool, rest: str) -> tuple[str, ...]:
    """How a later sentence may call the subject, in lower case."""
    if person:
        return bare.lower(), called.lower(), bare.split()[-1].lower()
    head = re.split(r" (?:of|in|that|which|from|by|for|located|founded|directed|written)\b|[,;]", rest)[0]
    return bare.lower(), called.lower(), "the " + head.rstrip(".").split()[-1].lower()


def _about(lead: _Lead, sentence: str, follows: bool) -> str:
    """What `sentence` says of the lead's subject; empty if its subject is another, or a pronoun for another."""
    start = _SETTING.match(sentence)
    sentence = sentence[start.end() :] if start else sentence
    lowered = sentence.lower()
    pronouns = ("he", "she") if lead.person else ("it", "they", "its")
    for name in (*lead.names, *(pronouns if follows else ())):
        if lowered.startswith(name + " "):
            return _plain(sentence[len(name) + 1 :]).removeprefix("also ")
    return sentence[4:] if lowered.startswith("the capital ") else ""


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
    while end and " that " in rest[: end.start()] and re.search(r"(?:who|which|where|when) $", end[0]):
        end = _DEFINITION_END.search(rest, end.end())  # a clause within a clause: the outer one's verb is to come
    answer = rest[: end.start()] if end else rest
    answer = answer.rstrip(", ")
    return answer if len(answer.split()) >= 3 else ""

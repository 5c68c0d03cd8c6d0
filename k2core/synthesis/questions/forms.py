"""The forms of sentences that questions are made from: what is matched, what is asked, of what kind the answer is.

All of them match a predicate ("was founded in 1976 by …"), the sentence without its subject and on one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["year", "number", "place", "person", "nationality", "name", "description", "achievement"]


@dataclass(frozen=True)
class Form:
    """A predicate with the group `answer`; `question` is filled with {x} or {name} and the pattern's other groups."""

    kind: Kind
    question: str
    expression: str
    of_person: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when it is first needed: all of them take longer than the rest of a stage's `--help`."""
        return re.compile(self.expression)


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
_CLOSED = r"(?=[,.;]|$| (?:in|and|for|from|on|with|that|which|at|to|who|as|after|during|based|published|set|first)\b)"
_BY = rf"by {_ROLE}(?P<answer>(?:the )?{_NAME}){_ALONE}{_CLOSED}"
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
_UNIT = (
    r"(?:km2|km²|square (?:kilomet(?:re|er)s|miles)|sq mi|km|kilomet(?:re|er)s|m|met(?:re|er)s|ft|feet|miles|mi|acres|"
    r"ha|hectares)"
)
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


# Between verb and answer, or the definition's noun and what is said of it: no other clause begins.
_PLAINLY = r"(?:(?! (?:based|of|that|which|about|featuring|from)\b)[^,;])*?"
_OFFICE = r"(?P<office>(?:the )?(?:(?! (?:who|and the|that|which) )[^,;]){4,60}?)"
_CAPITAL_OF = r"(?:state |provincial |national |federal )?capital(?: city| and [a-z-]+(?: [a-z-]+)* city)? of"
_SEAT = (
    r"(?P<what>capital|largest city|largest settlement)(?: and (?:largest|most populous) city| city)?(?: of [A-Z]\w+)?"
)
_MEASURE = "(?P<what>area|length|height|elevation|width|depth|diameter)"
_SPOKEN_OR_PAID = "(?P<what>official language|currency|national language|official currency)"
_RANK = "(?:[a-z]+ )?(?P<rank>family|genus|order|class|phylum)"
_OTHER_NAME = rf"(?P<answer>(?:the )?{_NAME}|(?:an? |the )?[a-z][a-z -]+?){_ALONE}"
_NO_NATION = "(?!Jewish|Christian|Victorian|Olympian|Italianate|Roman |Norman|Lutheran)"
_NATION = r"(?:[A-Z][a-z]+ )?[A-Z][a-z]+(?:an|ish|ese|ench|eek|elsh|utch|wiss|raqi|aeli|stani|zech)"
_DONE = "In which year {was} {x} {verb}?"
_SIZE = "What is the {what} of {x}?"
FORMS = (
    Form("year", _DONE, rf"^{_IS} (?P<verb>{_MADE})\b{_GAP} ?(?<= ){_WHEN}"),
    Form("year", _DONE, rf"^{_IS} (?:an?|the) [^,;]*?,? (?P<verb>{_MADE}) (?:by [^,;]+? )?{_WHEN}"),
    Form(
        "year",
        "In which year did {x} take place?",
        rf"^(?:took place|(?:was|were) [^,;]* that took place)\b{_GAP} ?(?<= ){_WHEN}",
    ),
    Form("year", "In which year did {x} begin?", rf"\blasted from {_DAY}{_YEAR}"),
    Form("year", "In which year did {x} end?", rf"\blasted from {_DAY}\d{{4}} (?:to|until) {_DAY}{_YEAR}"),
    Form(
        "year",
        "From which year on was {x} {office}?",
        rf"(?:^was|\bserved as) {_OFFICE} from {_DAY}{_YEAR} (?:to|until)\b",
        of_person=True,
    ),
    Form(
        "year",
        "In which year was {x} awarded {prize}?",
        rf"(?:^| and |who )(?:won|received|was awarded) (?P<prize>the [^,;]{{4,60}}?) in {_YEAR}",
    ),
    Form("year", "In which year was {x} born?", rf"^was born\b{_GAP} ?(?<= ){_WHEN}"),
    Form("year", "In which year did {x} die?", rf"^died\b{_GAP} ?(?<= ){_WHEN}"),
    Form(
        "year",
        "From which year is the {work} {name}?",
        rf"^(?:is|was) (?:an?|the) {_YEAR} [^,;]*?\b(?P<work>{_WORK})\b",
    ),
    Form("person", "Who {did} {x}?", rf"^(?:is|was|are|were) (?P<did>{_MAKER})(?: in \d{{4}})? {_BY}"),
    Form("person", "Who {did} {x}?", rf"^(?:is|was) (?:an?|the) {_PLAINLY}\b(?P<did>{_MAKER}) {_BY}"),
    Form("person", "Who made the {work} {name}?", rf"^(?:is|was) an? [^,;]*?\b(?P<work>{_WORK}) {_BY}"),
    Form("place", "Where was {x} born?", rf"^was born\b{_GAP} in {_PLACE}"),
    Form(
        "place",
        "Where {is} {x} {verb}?",
        rf"^{_IS} (?:an? [^,;]{{0,60}}?)?(?P<verb>located|situated|headquartered|based) (?:in|on|at) {_PLACE}",
    ),
    Form("place", "In which place is the {noun} {name}?", rf"^is an? [^,;]{{0,40}}?\b(?P<noun>{_TOWN}) in {_PLACE}"),
    Form("place", "Of which place is {name} the capital?", rf"^is the {_CAPITAL_OF} {_PLACE}"),
    Form("place", _SIZE, rf"^{_SEAT} is (?P<answer>{_NAME}){_ALONE}"),
    Form(
        "number",
        "What is the population of {x}?",
        rf"^(?:(?:has|had)|.*?\bwith) (?:an? )?(?:estimated |total )?population of {_HEDGE}(?P<answer>{_NUMBER})",
    ),
    Form(
        "number",
        _SIZE,
        rf"^(?:has|covers|with)? ?[^.;]{{0,40}}?\b(?:an?|the) (?:total )?{_MEASURE} of {_HEDGE}"
        rf"(?P<answer>{_NUMBER} {_UNIT})\b",
    ),
    Form("number", "How long is {x}?", rf"^is {_HEDGE}(?P<answer>{_NUMBER} {_UNIT}) long\b"),
    Form("number", "What is the atomic number of {x}?", r"\batomic number (?P<answer>\d+)\b"),
    Form("name", _SIZE, rf"^{_SPOKEN_OR_PAID} is (?P<answer>(?:the )?{_NAME}|the [a-z]+){_ALONE}"),
    Form(
        "name",
        "What {is} {x} also called?",
        r"^(?P<is>is |are |)also (?:known as|called|referred to as) (?!as |in |by |its |simply |for )"
        rf"{_OTHER_NAME}(?=[,.;]|$| or )",
    ),
    Form("name", "What is {x} officially called?", rf"^\W*officially (?P<answer>(?:the )?{_NAME})(?=,|$)"),
    Form(
        "name",
        "After whom or what {is} {x} named?",
        rf"^{_IS} named (?:after|for) {_ROLE}(?P<answer>(?:the )?{_NAME}){_ALONE}{_CLOSED}",
    ),
    Form(
        "name",
        "To which {rank} {does} {x} belong?",
        rf"^(?P<is>is|are) (?:(?! (?:caused|by|between|from|like|which|that) )[^;])*? (?:in|of) the {_RANK}"
        r" (?P<answer>[A-Z][a-z]+)(?=[,.;]| |$)",
    ),
    Form(
        "nationality",
        "What {is} the nationality of {x}?",
        rf"^{_IS} an? {_NO_NATION}(?P<answer>{_NATION})(?= [a-z])",
        True,
    ),
    Form(
        "achievement",
        "What {is} {x} known for?",
        rf"^{_IS} (?:best |widely |mainly |primarily |most )known for (?P<answer>[^,;]{{8,}}?)(?=[,;]|\.?$)",
    ),
)

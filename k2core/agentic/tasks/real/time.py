"""Tasks of converting a time of day, executed by `mcp-server-time`.

Only zones without summer time, and never the current time: what a task asks has the same answer on every day.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from random import Random
from typing import Any

from k2core.agentic.tasks.real_domain import RealDomain, Wish, call
from k2core.agentic.tasks.script import at
from k2core.agentic.tools.simulator import State

ZONES = {
    "Africa/Lagos": 60, "Africa/Johannesburg": 120, "Africa/Nairobi": 180, "Asia/Dubai": 240, "Asia/Karachi": 300,
    "Asia/Kolkata": 330, "Asia/Kathmandu": 345, "Asia/Dhaka": 360, "Asia/Bangkok": 420, "Asia/Jakarta": 420,
    "Asia/Singapore": 480, "Asia/Manila": 480, "Asia/Tokyo": 540, "Asia/Seoul": 540, "Australia/Brisbane": 600,
    "Pacific/Honolulu": -600, "America/Phoenix": -420, "America/Panama": -300, "America/Bogota": -300,
    "America/Lima": -300, "America/Caracas": -240, "Atlantic/Reykjavik": 0,
}  # fmt: skip
"""Zone → minutes before UTC."""
DAY = date(2025, 1, 1)
KINDS = ("convert", "convert", "back", "twice")


class Time(RealDomain):
    """Nothing to set up and nothing that changes: the judge looks at what the server said."""

    name = "time"
    system = "You know the time in every zone."
    tools = ("convert_time", "get_current_time")

    def wish(self, number: int, random: Random) -> Wish:
        kind = KINDS[number % len(KINDS)]
        source, target, third = random.sample(list(ZONES), 3)
        minutes = random.randrange(24 * 60)
        shown = _clock(minutes)
        there = _clock(minutes + ZONES[target] - ZONES[source])
        tools = ["convert_time", "get_current_time"]
        world: dict[str, Any] = {"time": {}}
        random.shuffle(tools)
        if kind == "back":  # the user knows the time there and asks for it here
            calls = [_convert(source, shown, target)]
            clause = f"when it is {shown} in {_city(source)} ({source}), what time is it in {_city(target)} ({target})"
            answer = f"It is then {there} in {_city(target)}."
            return _question(clause, answer, calls, tools, world, [there])
        if kind == "twice":
            last = _clock(minutes + ZONES[third] - ZONES[source])
            calls = [_convert(source, shown, target), _convert(source, shown, third, 1)]
            clause = f"a call starts at {shown} in {source}; when is that in {target} and in {third}"
            answer = f"It starts at {there} in {_city(target)} and at {last} in {_city(third)}."
            return _question(clause, answer, calls, tools, world, [there, last])
        calls = [_convert(source, shown, target)]
        clause, answer = f"what is {shown} in {source} in the zone {target}", f"{shown} is {there} in {_city(target)}."
        return _question(clause, answer, calls, tools, world, [there])

    def recorded(self, text: str) -> str:
        """The server counts from today; the dates are moved so that the time that was asked about is of `DAY`."""
        try:
            result = json.loads(text)
            moved = DAY - datetime.fromisoformat(result["source"]["datetime"]).date()
            for side in ("source", "target"):
                moment = datetime.fromisoformat(result[side]["datetime"]) + moved
                result[side] |= {"datetime": moment.isoformat(timespec="seconds"), "day_of_week": f"{moment:%A}"}
        except (ValueError, KeyError, TypeError):
            return text  # an error in words
        return json.dumps(result, indent=2)


DOMAIN = Time()


def _question(
    clause: str, answer: str, calls: list[dict[str, Any]], tools: list[str], world: State, times: list[str]
) -> Wish:
    return Wish(clause, True, answer, calls, tools, world, world, times, [f"T{each}:00" for each in times])


def _convert(source: str, shown: str, target: str, number: int = 0) -> dict[str, Any]:
    """Call `number` of the task."""
    there = at(number, "target", "datetime", find=r"T(\d\d:\d\d)")
    says = {"words": "clock", "city": _city(target), "value": there}
    return call("convert_time", says, source_timezone=source, time=shown, target_timezone=target)


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"


def _city(zone: str) -> str:
    return zone.split("/")[1]

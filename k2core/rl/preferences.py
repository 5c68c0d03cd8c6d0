"""Preference pairs for the critic: what a verifier or a judge found better, with its worse counterpart.

Three sources before RL: gym items (correct answer against a corrupted one), trajectories about the same task (accepted
against rejected), and accepted trajectories against themselves with one tool call changed. In RL a fourth: replies that
were sampled for the same prompt, of which the verifier passed one and failed the other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from k2core.chat.parser import parse_assistant
from k2core.gym.base import Environment, Split
from k2core.gym.demonstrations import Trajectory
from k2core.inference.rollouts import Rollout
from k2core.rl.critic import RUBRIC, Comparison

REQUEST_CHARACTERS = 400
REPLY_CHARACTERS = 400


@dataclass(frozen=True)
class Pair:
    """A request with the better and the worse reply."""

    request: str
    better: str
    worse: str
    source: str

    def comparison(self, first_is_better: bool) -> Comparison:
        """The pair as a question, in one order or the other."""
        first, second = (self.better, self.worse) if first_is_better else (self.worse, self.better)
        return Comparison(self.request, first, second, RUBRIC)


def gym_pairs(
    environments: Mapping[str, Environment], counts: Mapping[str, int], split: Split, seed: int
) -> list[Pair]:
    """Correct answers against corrupted ones that the environment's own verifier fails."""
    pairs = []
    for name, count in sorted(counts.items()):
        environment = environments[name]
        for index in range(count):
            item = environment.item(seed, split, index)
            gold = item.gold["content"]
            random = Random(f"{seed}/corrupt/{name}/{split}/{index}")
            wrong = next(
                (text for text in (corrupt(gold, random) for _ in range(20)) if environment.score(item, text) < 1.0),
                None,
            )
            if wrong is not None:
                pairs.append(Pair(item.messages[-1]["content"], gold, wrong, f"gym/{name}"))
    return pairs


def corrupt(text: str, random: Random) -> str:
    """A near miss of an answer made of words: two words swapped, one left out, one doubled or one changed."""
    words = text.split()
    kind = random.choice(["swap", "drop", "double", "change"]) if len(words) > 1 else "change"
    place = random.randrange(len(words))
    if kind == "swap":
        other = (place + random.randrange(1, len(words))) % len(words)
        words[place], words[other] = words[other], words[place]
    elif kind == "drop":
        words.pop(place)
    elif kind == "double":
        words.insert(place, words[place])
    elif words[place].lstrip("-").isdigit():
        words[place] = str(int(words[place]) + random.choice([-10, -2, -1, 1, 2, 10]))
    else:
        words[place] = random.choice("abcdefghijklmnopqrstuvwxyz")
    return " ".join(words)


def trajectory_pairs(accepted: list[Trajectory], rejected: list[Trajectory], seed: int) -> list[Pair]:
    """Accepted trajectories against the rejected ones of the same task, and against a changed copy of themselves."""
    failed: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in rejected:
        failed[trajectory["task_id"]].append(trajectory)
    pairs = []
    for trajectory in accepted:
        request, better = request_of(trajectory["messages"]), transcript(trajectory)
        worse = [("rejected", transcript(other)) for other in failed[trajectory["task_id"]]]
        broken = _break_call(trajectory, Random(f"{seed}/break/{trajectory['id']}"))
        worse += [("changed", transcript(broken))] if broken else []
        pairs += [Pair(request, better, text, f"trajectory/{source}") for source, text in worse if text != better]
    return pairs


def transcript(trajectory: Trajectory) -> str:
    """What the assistant did and said, in one line; the end counts most, so the beginning is cut."""
    return render_reply(*[m for m in trajectory["messages"] if m["role"] == "assistant"])


def render_reply(*messages: dict[str, Any]) -> str:
    """Assistant messages as the critic reads them: calls as `name(arguments)`."""
    parts = []
    for message in messages:
        parts += [
            f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls") or []
        ]
        parts += [message["content"]] if message.get("content") else []
    return " | ".join(parts)[-REPLY_CHARACTERS:]


def request_of(messages: Sequence[dict[str, Any]]) -> str:
    """What the user wants, in one line."""
    return " | ".join(message["content"] for message in messages if message["role"] == "user")[:REQUEST_CHARACTERS]


def verified_pair(request: str, rollouts: Sequence[Rollout], source: str) -> Pair | None:
    """The first reply that passed against the first that did not; None where all went alike or one was cut."""
    whole = [rollout for rollout in rollouts if not rollout.truncated]
    better, worse = (next((r for r in whole if r.passed == passed), None) for passed in (True, False))
    if better is None or worse is None:
        return None
    good, bad = (render_reply(parse_assistant(reply.text).wire()) for reply in (better, worse))
    return Pair(request, good, bad, source)


def _break_call(trajectory: Trajectory, random: Random) -> Trajectory | None:
    """A copy with one argument of one call changed or left out; None if no call has arguments."""
    copy = json.loads(json.dumps(trajectory))
    calls = [call["function"] for message in copy["messages"] for call in message.get("tool_calls") or []]
    calls = [call for call in calls if json.loads(call["arguments"] or "{}")]
    if not calls:
        return None
    call = random.choice(calls)
    arguments = json.loads(call["arguments"])
    name = random.choice(sorted(arguments))
    value = arguments[name]
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        del arguments[name]
    elif isinstance(value, int | float):
        arguments[name] = value + random.choice([-2, -1, 1, 2])
    else:
        arguments[name] = corrupt(value, random) if value.split() else "x"
    call["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return copy

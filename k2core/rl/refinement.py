"""The critic in the loop: it learns from verified rollouts, and its agreement with the verifiers is known (K2 §3.2.2).

In every iteration the critic is shown pairs of replies to one prompt, of which a verifier passed one and failed the
other, and learns to tell them apart. How often it tells held-out pairs apart, replies to prompts that no training has
seen, is its agreement. Open prompts, which no verifier can judge, are left to it only while it agrees often enough.
Few pairs say little: of 32, a critic at chance tells 60% apart in one iteration of seven. So all pairs count, each by
the critic's newest verdict on it, and an iteration asks for some of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from k2core.chat.template import encode_dialogue
from k2core.data.rows.packing import pack_rows
from k2core.rl.critic import chances, rights, verdict
from k2core.rl.preferences import Pair
from k2core.training.dialogues import Dialogue, dialogues_to_batch, widest
from k2core.training.history import Metrics
from k2core.training.learner import Learner
from k2core.training.ranks import Ranks

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

CHANCE = 0.5


class Refinement:
    """The critic that `learner` trains, and the pairs that tell how far it can be trusted.

    Args:
        heldout: pairs of verified replies to held-out prompts.
        asked: how many of them an iteration asks for, in turn; the first one asks for all.
        pairs: most pairs of an iteration that it learns from; 0: it stays as it is.
        context: most tokens of a comparison.
        ranks: the processes that the critic is spread over. Each reads all comparisons.
    """

    def __init__(
        self, learner: Learner, tokenizer: Tokenizer, heldout: Sequence[Pair], *, asked: int, pairs: int, context: int,
        ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.tokenizer = learner.model, learner.optimizer, tokenizer
        self.heldout, self.asked, self.pairs, self.context = heldout, asked, pairs, context
        self.right, self.next = list[float](), 0
        self.ranks = ranks or Ranks()
        self.read = self.ranks.whole_rows(self.model)

    def state(self) -> dict[str, Any]:
        return {"right": self.right, "next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        self.right, self.next = state["right"], state["next"]

    def agreement(self) -> float:
        """Share of the held-out pairs on which its newest verdict is the verifier's; `CHANCE` if there are none."""
        if not self.heldout:
            return CHANCE
        count = len(self.heldout)
        turn = [(self.next + place) % count for place in range(min(self.asked, count))] if self.right else range(count)
        found = rights(chances(self.read, self.tokenizer, [self.heldout[number] for number in turn], self.context))
        newest = dict(enumerate(self.right)) | dict(zip(turn, found, strict=True))
        self.right = [newest[number] for number in range(count)]
        self.next = (self.next + len(turn)) % count
        return fmean(self.right)

    def learn(self, found: Sequence[Pair], random: Random) -> Metrics:
        """One optimiser step on some of the pairs, each in both orders; none if all are too long or there are none.

        The optimiser starts afresh, so that the weights are all there is to a checkpoint.
        """
        chosen = random.sample(list(found), min(self.pairs, len(found)))
        asked = [(pair.comparison(first), first) for pair in chosen for first in (True, False)]
        dialogues = [Dialogue(*encode_dialogue(self.tokenizer, verdict(*each))) for each in asked]
        dialogues = [dialogue for dialogue in dialogues if len(dialogue.tokens) <= self.context]
        if not dialogues:
            return {}
        rows = pack_rows([len(dialogue.tokens) for dialogue in dialogues], self.context)
        self.optimizer.reset_state()
        self.optimizer.zero_grad()
        width = self.ranks.columns(widest(dialogues, rows))
        parts = [[row] for row in rows] if self.ranks.pipeline > 1 else [rows]
        batches = [self.ranks.part(dialogues_to_batch(dialogues, part, width)[0]) for part in parts]
        [targets] = self.ranks.sum(self.ranks.targets(batches))
        [nats] = self.ranks.sum(self.ranks.backward(self.model, batches, targets))
        norm = self.optimizer.gradient_norm()
        self.optimizer.step(1.0, norm)
        return {"critique/loss": nats / targets}

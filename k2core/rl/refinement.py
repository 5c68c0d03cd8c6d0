"""The critic in the loop: it learns from verified rollouts, and its agreement with the verifiers is known (K2 §3.2.2).

In every iteration the critic is shown pairs of replies to one prompt, of which a verifier passed one and failed the
other, and learns to tell them apart. How often it tells held-out pairs apart, replies to prompts that no training has
seen, is its agreement. Open prompts, which no verifier can judge, are left to it only while it agrees often enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from k2core.chat.template import encode_dialogue
from k2core.data.rows.packing import pack_rows
from k2core.rl.critic import chances, pairwise_accuracy, verdict
from k2core.rl.preferences import Pair
from k2core.training.dialogues import Dialogue, dialogues_to_batch
from k2core.training.history import Metrics
from k2core.training.learner import Learner
from k2core.training.loss import batch_loss
from k2core.training.ranks import Ranks

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

CHANCE = 0.5


class Refinement:
    """The critic that `learner` trains, and the pairs that tell how far it can be trusted.

    Args:
        heldout: pairs of verified replies to held-out prompts.
        pairs: most pairs of an iteration that it learns from; 0: it stays as it is.
        context: most tokens of a comparison.
        ranks: the processes that the critic is spread over. Each reads all comparisons.
    """

    def __init__(
        self, learner: Learner, tokenizer: Tokenizer, heldout: Sequence[Pair], *, pairs: int, context: int,
        ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.tokenizer = learner.model, learner.optimizer, tokenizer
        self.heldout, self.pairs, self.context = heldout, pairs, context
        self.read = (ranks or Ranks()).whole_rows(self.model)

    def agreement(self) -> float:
        """Share of the held-out pairs on which it agrees with the verifier; `CHANCE` if there are none."""
        if not self.heldout:
            return CHANCE
        return pairwise_accuracy(self.heldout, chances(self.read, self.tokenizer, self.heldout, self.context))["all"]

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
        loss = batch_loss(self.model, dialogues_to_batch(dialogues, rows)[0].to(self.model.device))
        loss.backward()
        norm = self.optimizer.gradient_norm()
        self.optimizer.step(1.0, norm)
        return {"critique/loss": float(loss.detach())}

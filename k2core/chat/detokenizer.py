"""A reply's tokens as text while they come: `Tokenizer.decode_reply` in pieces."""

from __future__ import annotations

from k2core.chat.tokenizer import Tokenizer

HALF = "\ufffd"
"""What the bytes of an unfinished character decode to."""


class Detokenizer:
    """What `take` and then `end` return is, one after the other, what `decode_reply` gives of all tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.held: list[int] = []
        self.less = ""  # a `<` that a `|` may follow

    def take(self, token: int) -> str:
        """The text that is certain now; empty in the middle of a character."""
        if token in self.tokenizer.special_ids:
            return self.end() + self.tokenizer.decode([token])
        self.held.append(token)
        text = self.tokenizer.decode(self.held)
        if text.endswith(HALF):
            return ""
        self.held, text = [], self.less + text
        self.less = "<" if text.endswith("<") else ""
        return _apart(text.removesuffix("<"))

    def end(self) -> str:
        """What is left after the last token."""
        text = self.less + self.tokenizer.decode(self.held)
        self.held, self.less = [], ""
        return _apart(text)


def _apart(text: str) -> str:
    """`text` with its plain `<|` told from those of control tokens, as in `decode_reply`."""
    return text.replace("<|", "<\u2060|")

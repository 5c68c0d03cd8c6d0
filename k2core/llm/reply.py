"""What a server's body must hold to be an answer; everything else in it is ignored."""

from __future__ import annotations

from pydantic import BaseModel, Field, ValidationError

from k2core.storage.foreign import whole_escapes


class UnusableReply(ValueError):
    """A body of status 200 that is not a chat completion: cut off, garbage, or without a choice."""


class Message(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None


class Usage(BaseModel):
    completion_tokens: int = Field(default=0, ge=0, le=10**9)


class Reply(BaseModel):
    """The parts of OpenAI's chat completion that are read."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None


def parse(body: bytes) -> Reply:
    """`body` as a chat completion.

    Raises:
        UnusableReply: it is none; the message says what is wrong first.
    """
    try:
        # A server may cut a character in two; its halves are no reason to throw the answer away.
        return Reply.model_validate_json(whole_escapes(body.decode("latin-1")).encode("latin-1"))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise UnusableReply(f"{place + ': ' if place else ''}{fault['msg']}") from None

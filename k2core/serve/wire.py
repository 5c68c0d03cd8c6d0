"""The bodies that clients send: OpenAI's names and ranges; of what is not offered only the values without effect."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST_STOPS, MOST_ALTERNATIVES, MOST_CHOICES = 16, 20, 64
Zero = Annotated[float, Field(ge=0, le=0)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Wire(BaseModel):
    """A part of a body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lenient(BaseModel):
    """A part that clients send back as some server wrote it, with keys that mean nothing here."""

    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(Lenient):
    include_usage: bool = False


class Sampling(Wire):
    """What both kinds of request have."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # without effect here
    user: str | None = None
    metadata: dict[str, Any] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None

    @property
    def stops(self) -> list[str]:
        """The strings before which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Text(Lenient):
    type: Literal["text"]
    text: str


class CalledFunction(Lenient):
    name: str
    arguments: str


class Call(Lenient):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Text] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of role tool needs tool_call_id, the id of the call that it answers")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} makes no tool_calls")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content")
        return self


class Function(Lenient):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Lenient):
    type: Literal["function"]
    function: Function


class ToolName(Lenient):
    name: str


class NamedTool(Lenient):
    type: Literal["function"]
    function: ToolName


class PlainText(Lenient):
    type: Literal["text"]


class ChatRequest(Sampling):
    """Body of `chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    # without effect here
    response_format: PlainText | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        wanted = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        if wanted is not None and wanted not in names:
            raise ValueError(f"tool_choice names {wanted[:64]!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, but there are no tools")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    def dialogue(self) -> list[dict[str, Any]]:
        """The messages as the chat template has them."""
        told = [message.model_dump(exclude_none=True) for message in self.messages]
        return [{**message, "role": message["role"].replace("developer", "system")} for message in told]

    def declarations(self) -> list[dict[str, Any]]:
        """The tools as the chat template has them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools or []]


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Sampling):
    """Body of `completions`."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = None
    # without effect here
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(token, int) for token in self.prompt):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]


def first_fault(error: ValidationError, body: Any) -> tuple[str, str | None]:
    """What is wrong first in `body`, and with which parameter."""
    faults = error.errors(include_url=False, include_context=False)
    fault = max(faults, key=lambda one: len(_place(one["loc"], body)))  # of a union's, the one that came farthest
    place = [*_place(fault["loc"], body), *(fault["loc"][-1:] if fault["type"] == "missing" else ())]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[:12]).removeprefix(".")
    said = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        said = "this server has no such parameter"
    if fault["type"] == "model_type":
        said = "must be a JSON object" if path else "the body must be a JSON object"
    return (f"{path}: {said}" if path else said), path or None


def _place(loc: tuple[int | str, ...], body: Any) -> list[int | str]:
    """The part of an error's location that leads through `body`: without the names of a union's cases."""
    place: list[int | str] = []
    for part in loc:
        known = range(len(body)) if isinstance(body, list) else body if isinstance(body, dict) else ()
        if part in known:
            body = body[part]
            place.append(part)
    return place

"""The control tokens of Kimi K2's released tokenizer; the names are the wire format, so they must not change."""

BOS = "[BOS]"
EOS = "[EOS]"
"""End of a document in pre-training."""
IM_END = "<|im_end|>"
"""End of a message; where an assistant stops."""
IM_USER = "<|im_user|>"
IM_ASSISTANT = "<|im_assistant|>"
IM_SYSTEM = "<|im_system|>"
IM_MIDDLE = "<|im_middle|>"
TOOL_CALLS_SECTION_BEGIN = "<|tool_calls_section_begin|>"
TOOL_CALLS_SECTION_END = "<|tool_calls_section_end|>"
TOOL_CALL_BEGIN = "<|tool_call_begin|>"
TOOL_CALL_ARGUMENT_BEGIN = "<|tool_call_argument_begin|>"
TOOL_CALL_END = "<|tool_call_end|>"
PAD = "[PAD]"

SPECIAL_TOKENS: tuple[str, ...] = (
    BOS,
    EOS,
    IM_END,
    IM_USER,
    IM_ASSISTANT,
    IM_SYSTEM,
    TOOL_CALLS_SECTION_BEGIN,
    TOOL_CALLS_SECTION_END,
    TOOL_CALL_BEGIN,
    TOOL_CALL_ARGUMENT_BEGIN,
    TOOL_CALL_END,
    IM_MIDDLE,
    PAD,
)
"""In the order of their ids, which follow the byte-pair vocabulary as in the released tokenizer."""

DEFAULT_SYSTEM = "Answer."
"""Where K2's template says that it is Kimi, by Moonshot AI. No model made here is, and none has read those words in
training: asked so, it answered with them. These are the words of the gym's prompts."""

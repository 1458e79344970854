"""Notices prompts that a server cuts without a word: it reports far fewer tokens than the text that was sent has.

Ollama is the common case: it cuts a prompt that exceeds its context, at the start, where the instructions are. Such a
prompt is reported to have as many tokens as the context, a power of two. Any other cut that leaves more than about half
of the text, or pictures in its place, cannot be told from a tokenizer with long tokens.
"""

from __future__ import annotations

__all__ = ["prompt_cut"]

MAX_CHARS_PER_TOKEN = 6  # English prose has about 4, numbers and JSON fewer; pictures only add tokens
CONTEXTS = tuple(2**power for power in range(11, 18))  # 2,048 to 131,072
MIN_CHARS = 3000  # shorter prompts fit into every context


def prompt_cut(chars: int, tokens: int, advice: str) -> str:
    """A sentence if a text of so many characters cannot have been read as so few tokens; empty otherwise.

    tokens: as the server reports them; 0 if it reports none. advice: how to give this server a longer context.
    """
    if chars < MIN_CHARS or tokens <= 0:
        return ""
    if tokens in CONTEXTS:
        return f"the server read exactly {tokens:,} tokens: its context is full, and the prompt probably cut; {advice}"
    if chars <= MAX_CHARS_PER_TOKEN * tokens:
        return ""
    return f"the server read only {tokens:,} tokens of {chars:,} characters: it cuts prompts; {advice}"

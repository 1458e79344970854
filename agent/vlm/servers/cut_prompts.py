"""Notices prompts that a server cuts without a word: it reports far fewer tokens than the text that was sent has.

Ollama is the common case: it cuts a prompt that exceeds its context, at the start, where the instructions are. A cut
that leaves more than about half of a prompt cannot be told from a tokenizer with long tokens.
"""

from __future__ import annotations

__all__ = ["prompt_cut"]

MAX_CHARS_PER_TOKEN = 6  # English prose has about 4, numbers and JSON fewer; pictures only add tokens
MIN_CHARS = 3000  # shorter prompts fit into every context


def prompt_cut(chars: int, tokens: int, advice: str) -> str:
    """A sentence if a text of so many characters cannot have been read as so few tokens; empty otherwise.

    tokens: as the server reports them; 0 if it reports none. advice: how to give this server a longer context.
    """
    if chars < MIN_CHARS or tokens <= 0 or chars <= MAX_CHARS_PER_TOKEN * tokens:
        return ""
    return f"the server read only {tokens:,} tokens of {chars:,} characters: it cuts prompts; {advice}"

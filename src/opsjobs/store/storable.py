"""Text that PostgreSQL takes: machines and people may have put anything into it."""

from __future__ import annotations


def storable(text: str, characters: int) -> str:
    r"""Return the text without NUL and halves of characters, cut to so many characters.

    >>> storable("a\0b\udc80c", 4)
    'a\ufffdb?'
    """
    return text[:characters].replace("\0", "\ufffd").encode("utf-8", "replace").decode()

"""Text that PostgreSQL can store, made from any text of machines and people."""

from __future__ import annotations


def storable(text: str, characters: int) -> str:
    r"""Return the text without NUL and lone surrogates, cut to a number of characters.

    >>> storable("a\0b\udc80c", 4)
    'a\ufffdb?'
    """
    return text[:characters].replace("\0", "\ufffd").encode("utf-8", "replace").decode()

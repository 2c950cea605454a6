"""One line of a check, and the digests that checks compare by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "missing", "differs"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        level: "ok", "note" (worth knowing, no fault), "missing" or "differs".
        subject: a part, a file or a property.
        text: for people.
    """

    level: Level
    subject: str
    text: str


def digest(content: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


def git_id(path: Path) -> str:
    """The object id that git gives a text file, with line ends as git stores them."""
    content = path.read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

"""Digests of a set of prompts, to detect changes when a run resumes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from lgrpo_lightning.run_folder.plain import as_json
from lgrpo_lightning.types import Prompt

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What the text of an object has that is another one in every process."""


def fingerprint(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Digests of the prompts with their columns: ``content`` whatever their order, ``order`` as they stand."""
    rows = [sha256(ADDRESS.sub("", as_json([p.text, dict(p.columns)])).encode()).digest() for p in prompts]
    return {
        name: sha256(b"".join(given)).hexdigest()[:16]
        for name, given in (("content", sorted(rows)), ("order", rows))
    }

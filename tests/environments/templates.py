"""Chat templates of real models, with a byte-level tokenizer that has the special tokens they name."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PLAIN = """\
{%- if tools %}<|im_start|>system
Tools: {% for t in tools %}{{ t | tojson }}{% endfor %}. Answer as <tool_call>{"name": …}</tool_call>.<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""ChatML with tools."""


@cache
def folder() -> Path | None:
    """The templates that TRL ships."""
    found = find_spec("trl")
    return None if found is None or not found.origin else Path(found.origin).parent / "chat_templates"


def names() -> list[str]:
    """Every template, TRL's own variants for training left out."""
    there = folder()
    return [] if there is None else sorted(p.stem for p in there.glob("*.jinja") if "training" not in p.stem)


def tokenizer(template: str = PLAIN, end: str = "<|im_end|>") -> Any:
    """A tokenizer of bytes with the template's special tokens; ``end`` ends a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=end, pad_token="<pad>")
    tags = set(re.findall(r"<[|｜]?[A-Za-z_][\w▁ ]*[|｜]?>|\[/?[A-Z_]+\]", template)) - {"<s>", "<pad>", end}
    wrapped.add_special_tokens({"additional_special_tokens": sorted(tags)})
    wrapped.chat_template = template
    return wrapped


def of(name: str) -> tuple[Any, str]:
    """(tokenizer of a template, the text that ends a turn of the assistant there)."""
    there = folder()
    assert there is not None
    template = (there / f"{name}.jinja").read_text(encoding="utf-8")
    probe = tokenizer(template, "<end>")
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "ANSWER"}]
    text = probe.apply_chat_template([*chat, {"role": "user", "content": "And?"}], tokenize=False)
    behind = text.partition("ANSWER")[2]
    specials = [t for t in probe.all_special_tokens if t in behind] or ["<end>"]
    end = min(specials, key=lambda t: (behind.index(t) if t in behind else 0, -len(t)))
    return tokenizer(template, end), end

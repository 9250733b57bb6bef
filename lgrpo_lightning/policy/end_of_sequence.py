"""The tokens that end a completion: those of the model, its tokenizer and its chat template, or those asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.loading import load_config
from lgrpo_lightning.policy.refusals import explain_load_errors

ANSWER = "lgrpo answer 4711"
"""Content of an assistant's message; what a chat template writes behind it closes the turn."""
ANY_TEXT = "; a completion ends at any text with sampling.stop"


def find_end_tokens(config: PolicyConfig, tokenizer: Any) -> dict[int, tuple[str, ...]]:
    """Every id that ends a completion, and who says so.

    The union of generation config (where it names none, the model's config), tokenizer, and the token with which
    the chat template closes an assistant's turn. ``policy.eos_tokens`` takes its place, ``policy.extra_eos_tokens``
    adds to it.

    Raises:
        ValueError: There is none, so that no completion would ever end; or one that is asked for is no token.
    """
    named: list[tuple[str, Sequence[int | None]]]
    if config.eos_tokens is not None:
        named = [("policy.eos_tokens", find_token_ids(config, tokenizer, "eos_tokens", config.eos_tokens))]
    else:
        named = [
            _read_configured(config),
            ("tokenizer", [tokenizer.eos_token_id]),
            ("chat template", [find_turn_end(tokenizer)]),
        ]
    extra = find_token_ids(config, tokenizer, "extra_eos_tokens", config.extra_eos_tokens)
    origins: dict[int, tuple[str, ...]] = {}
    for origin, ids in [*named, ("policy.extra_eos_tokens", extra)]:
        for number in ids:
            if number is not None:
                origins[number] = (*origins.get(number, ()), origin)
    if not origins:
        raise UserError(
            f"The model {config.path!r} has no end-of-sequence token: no completion would end before "
            "sampling.max_new_tokens. Set eos_token_id in its generation_config.json or config.json, use a "
            "tokenizer with an eos_token (policy.tokenizer), or name the tokens with policy.eos_tokens."
        )
    return origins


def list_eos_token_ids(config: PolicyConfig, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion."""
    return tuple(find_end_tokens(config, tokenizer))


def describe_ends(ends: Mapping[int, Sequence[str]], tokenizer: Any) -> str:
    """The line of the log: which tokens end a completion, and who says so."""
    shown = (f"{tokenizer.convert_ids_to_tokens(i)} ({i}: {', '.join(by)})" for i, by in ends.items())
    return f"Completions end at {', '.join(shown)}."


def find_turn_end(tokenizer: Any) -> int | None:
    """The token with which the chat template closes an assistant's turn; None where it closes with plain text.

    A message of a known content is rendered; white space before the token does not matter.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    after = _render(tokenizer).rpartition(ANSWER)[2].lstrip()
    added = ((t.content.strip(), number) for number, t in tokenizer.added_tokens_decoder.items())
    fitting = [(text, number) for text, number in added if text and after.startswith(text)]
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else None


def _render(tokenizer: Any) -> str:
    """A short chat as text; nothing where the template refuses it: some take no chat without tools or images."""
    import jinja2

    messages = [{"role": "user", "content": "lgrpo question"}, {"role": "assistant", "content": ANSWER}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (jinja2.TemplateError, TypeError, ValueError):
        return ""


def _read_configured(config: PolicyConfig) -> tuple[str, list[int | None]]:
    """(who says so, ids) of the model's own configuration."""
    from transformers import GenerationConfig

    with explain_load_errors("policy.path", config.path, config.resolved_path):
        try:
            eos_ids = GenerationConfig.from_pretrained(config.resolved_path, revision=config.revision).eos_token_id
        except OSError:  # the file is optional
            eos_ids = None
    origin = "generation config"
    if eos_ids is None:
        whole = load_config(config)
        named = (getattr(c, "eos_token_id", None) for c in (whole.get_text_config(), whole))
        origin, eos_ids = "model config", next((eos for eos in named if eos is not None), None)
    ids = list(eos_ids) if isinstance(eos_ids, (list, tuple)) else [eos_ids]
    if odd := [i for i in ids if i is not None and type(i) is not int]:
        raise UserError(
            f"policy.path is {config.path!r}, whose {origin} has eos_token_id {odd[0]!r}; it must be the id of a "
            "token, or a list of ids. Correct the file, or name the tokens with policy.eos_tokens."
        )
    return origin, ids


def find_token_ids(config: PolicyConfig, tokenizer: Any, key: str, tokens: Sequence[str | int]) -> list[int]:
    """The ids of tokens that the configuration names.

    Raises:
        ValueError: One is no token of the tokenizer, or no id of the model.
    """
    if not tokens:
        return []
    size = int(load_config(config).get_text_config().vocab_size)
    known = tokenizer.get_vocab()
    ids: list[int] = []
    for token in tokens:
        number = token if isinstance(token, int) else known.get(token)
        if number is None:
            pieces = tokenizer(token, add_special_tokens=False)["input_ids"]
            number = pieces[0] if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id else None
        if number is None:
            raise UserError(
                f"policy.{key} has {token!r}, which is no token of the tokenizer but "
                f"{tokenizer.convert_ids_to_tokens(pieces)}. Name one token, such as {tokenizer.eos_token!r}, or its "
                f"id{ANY_TEXT if key.endswith('eos_tokens') else ''}."
            )
        if not 0 <= number < size:
            raise UserError(f"policy.{key} has {token!r}; the ids of the model go from 0 to {size - 1}.")
        ids.append(number)
    return ids

"""The tokens between two turns: what the chat template puts there, and nothing that was sampled is written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lgrpo_lightning.data.chats import open_turn, render
from lgrpo_lightning.data.row_columns import read_template_arguments
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.common_prefix import count_common
from lgrpo_lightning.types import Message, Prompt


class TemplateError(UserError):
    """A chat template cannot show turns."""


@dataclass(frozen=True, kw_only=True)
class TurnTemplate:
    """Renders prompts with tools, and what stands between two of the assistant's turns.

    Attributes:
        ends: Ids that end a turn.
        kwargs: More arguments for the chat template, those of ``data.chat_template_kwargs``.
    """

    tokenizer: Any
    ends: tuple[int, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def for_prompt(self, prompt: Prompt) -> TurnTemplate:
        """With the arguments that the row of ``prompt`` has in its column ``chat_template_kwargs``."""
        own = read_template_arguments(prompt.columns, f"Prompt {prompt.uid!r}")
        return replace(self, kwargs={**self.kwargs, **{k: v for k, v in own.items() if k != "tools"}})

    def make_prompt(self, prompt: Prompt, observation: str | None, tools: Sequence[Any]) -> Prompt:
        """``prompt`` with the environment's first words and its tools.

        Raises:
            TemplateError: There are tools, and the prompt is no chat, or its row has others; or the template does not
                show them.
        """
        if not observation and not tools:
            return prompt
        if prompt.messages is None:
            if tools:
                raise TemplateError(
                    f"Prompt {prompt.uid!r} is plain text, and tools are shown by a chat template. Set data.chat: true "
                    "and take a model with a chat template."
                )
            text = prompt.text + str(observation)
            return replace(prompt, text=text, token_ids=(*prompt.token_ids, *self.tokenise(str(observation))))
        own = read_template_arguments(prompt.columns, f"Prompt {prompt.uid!r}").get("tools")
        if tools and own:
            raise TemplateError(
                f"Prompt {prompt.uid!r} has a column 'tools', and the environment offers its own. Leave one of "
                "them out, or give the column another name."
            )
        messages = _append_text(prompt.messages, observation)
        shown, turn = self.for_prompt(prompt), open_turn(messages)
        text = shown.render(messages, tools=list(tools) or own, **turn)
        if tools and text == shown.render(messages, **turn):
            raise TemplateError(
                "The chat template does not show tools to the model. Take a model that was trained for tool calls, or "
                "set policy.tokenizer to one whose template has them."
            )
        return replace(prompt, messages=messages, text=text, token_ids=tuple(self.tokenise(text)))

    def render_between(self, messages: Sequence[Message], last: int | None, *, chat: bool) -> tuple[int, ...]:
        """Token ids from the end of a sampled turn to the beginning of the next one, with ``messages`` between.

        Args:
            last: The sampled turn's last id, which the template may put there again.
            chat: Whether a chat template is used; else the messages' texts follow one another.
        """
        if not chat:
            return tuple(self.tokenise("".join(str(m["content"]) for m in messages)))
        for turn in _make_turns(messages):
            before = [{"role": "user", "content": "Hello."}, turn]
            closed = self.render(before)
            if MARK in closed:
                break
        whole = self.render([*before, *messages], add_generation_prompt=True)
        if MARK not in whole:
            raise TemplateError(
                "The chat template does not show an assistant's turn that another message follows, so that what stands "
                "between turns is not known. Take another template (policy.tokenizer)."
            )
        ends, rest = (text[text.rindex(MARK) + len(MARK) :] for text in (closed, whole))
        start, end = self._find_end_of_turn(rest[: count_common(ends, rest)])
        ids = self.tokenise(rest[end if last in self.ends else start :])
        # the sampled turn has its last token already
        return tuple(ids[1:] if ids and ids[0] == last else ids)

    def _find_end_of_turn(self, text: str) -> tuple[int, int]:
        """Where the token that ends a turn begins and ends in what closes it; the text's end where there is none."""
        tokens = [self.tokenizer.convert_ids_to_tokens(i) for i in self.ends]
        positions = [(text.index(token), token) for token in tokens if token and token in text]
        start, token = min(positions, default=(len(text), ""))
        return start, start + len(token)

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """What the chat template writes; a ``TemplateError`` where it refuses the messages."""
        import jinja2

        try:
            return render(self.tokenizer, messages, **{**self.kwargs, **options})
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(str(m["role"]) for m in messages)
            raise TemplateError(f"The chat template refuses messages of the roles {roles}: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones written out."""
        how = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        return str(self.tokenizer.decode(list(ids), **how))

    def tokenise(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


MARK = "QZ-ANSWER-QZ"
"""Stands for what the assistant says."""


def _make_turns(messages: Sequence[Message]) -> list[Message]:
    """Turns of the assistant that may stand before ``messages``, the best first.

    Some templates want to see the call that a tool answers; others show none.
    """
    plain = {"role": "assistant", "content": MARK}
    if messages[0]["role"] != "tool":
        return [plain]
    name = str(messages[0].get("name", "unknown"))
    call = {"type": "function", "function": {"name": name, "arguments": {MARK: MARK}}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, plain]


def _append_text(messages: Sequence[Message], text: str | None) -> tuple[Message, ...]:
    """The messages with ``text`` behind the last one of the user."""
    if not text:
        return tuple(messages)
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    return tuple({**m, "content": f"{m['content']}{text}"} if n == last else m for n, m in enumerate(messages))

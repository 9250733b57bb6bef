"""The tokens between two turns: what the chat template puts there, and nothing that was sampled is written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lgrpo_lightning.data.chats import rendered
from lgrpo_lightning.data.row_columns import template_arguments
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message, Prompt


class TemplateError(UserError):
    """A chat template cannot show turns."""


@dataclass(frozen=True, kw_only=True)
class TurnTemplate:
    """Renders prompts with tools, and what stands between two of the assistant's turns.

    Attributes:
        tokenizer: A Hugging Face tokenizer.
        ends: Ids that end a turn.
        kwargs: More arguments for the chat template, those of ``data.chat_template_kwargs``.
    """

    tokenizer: Any
    ends: tuple[int, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, prompt: Prompt) -> TurnTemplate:
        """With the arguments that the row of ``prompt`` has in its column ``chat_template_kwargs``."""
        own = template_arguments(prompt.columns, f"Prompt {prompt.uid!r}")
        return replace(self, kwargs={**self.kwargs, **{k: v for k, v in own.items() if k != "tools"}})

    def prompt(self, prompt: Prompt, observation: str | None, tools: Sequence[Any]) -> Prompt:
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
            return replace(prompt, text=text, token_ids=(*prompt.token_ids, *self.ids(str(observation))))
        own = template_arguments(prompt.columns, f"Prompt {prompt.uid!r}").get("tools")
        if tools and own:
            raise TemplateError(
                f"Prompt {prompt.uid!r} has a column 'tools', and the environment offers its own. Leave one of "
                "them out, or give the column another name."
            )
        messages = _appended(prompt.messages, observation)
        goes_on = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
        how = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}
        shown = self.of(prompt)
        text = shown.rendered(messages, tools=list(tools) or own, **how)
        if tools and text == shown.rendered(messages, **how):
            raise TemplateError(
                "The chat template does not show tools to the model. Take a model that was trained for tool calls, or "
                "set policy.tokenizer to one whose template has them."
            )
        return replace(prompt, messages=messages, text=text, token_ids=tuple(self.ids(text)))

    def between(self, messages: Sequence[Message], last: int | None, *, chat: bool) -> tuple[int, ...]:
        """Token ids from the end of a sampled turn to the beginning of the next one, with ``messages`` between.

        Args:
            last: The sampled turn's last id, which the template may put there again.
            chat: Whether a chat template is used; else the messages' texts follow one another.

        Raises:
            TemplateError: The template writes a turn anew that comes before another.
        """
        if not chat:
            return tuple(self.ids("".join(str(m["content"]) for m in messages)))
        for turn in _turns_before(messages):
            before = [{"role": "user", "content": "Hello."}, turn]
            closed = self.rendered(before)
            if MARK in closed:
                break
        whole = self.rendered([*before, *messages], add_generation_prompt=True)
        if MARK not in whole:
            raise TemplateError(
                "The chat template does not show an assistant's turn that another message follows, so that what stands "
                "between turns is not known. Take another template (policy.tokenizer)."
            )
        ends, rest = (text[text.rindex(MARK) + len(MARK) :] for text in (closed, whole))
        start, end = self._end_of_turn(rest[: common(ends, rest)])
        ids = self.ids(rest[end if last in self.ends else start :])
        return tuple(ids[1:] if ids and ids[0] == last else ids)

    def _end_of_turn(self, text: str) -> tuple[int, int]:
        """Where the token that ends a turn begins and ends in what closes it; the text's end where there is none."""
        tokens = [self.tokenizer.convert_ids_to_tokens(i) for i in self.ends]
        found = [(text.index(token), token) for token in tokens if token and token in text]
        start, token = min(found, default=(len(text), ""))
        return start, start + len(token)

    def rendered(self, messages: Sequence[Message], **options: Any) -> str:
        """What the chat template writes.

        Raises:
            TemplateError: It refuses the messages.
        """
        import jinja2

        try:
            return rendered(self.tokenizer, messages, **{**self.kwargs, **options})
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(str(m["role"]) for m in messages)
            raise TemplateError(
                f"The chat template refuses messages of the roles {roles}: {error}"
            ) from error

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones written out."""
        how = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        return str(self.tokenizer.decode(list(ids), **how))

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning.

    >>> common("abc", "abd"), common("ab", "abc")
    (2, 2)
    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


MARK = "QZ-ANSWER-QZ"
"""Stands for what the assistant says."""


def _turns_before(messages: Sequence[Message]) -> list[Message]:
    """Turns of the assistant that may stand before ``messages``, the best first.

    Some templates want to see the call that a tool answers; others show none.
    """
    plain = {"role": "assistant", "content": MARK}
    if messages[0]["role"] != "tool":
        return [plain]
    name = str(messages[0].get("name", "unknown"))
    call = {"type": "function", "function": {"name": name, "arguments": {MARK: MARK}}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, plain]


def _appended(messages: Sequence[Message], text: str | None) -> tuple[Message, ...]:
    """The messages with ``text`` behind the last one of the user."""
    if not text:
        return tuple(messages)
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    return tuple(
        {**m, "content": f"{m['content']}{text}"} if n == last else m for n, m in enumerate(messages)
    )

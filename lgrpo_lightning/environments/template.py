"""The tokens between two turns: what the chat template puts there, and nothing that was sampled is written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lgrpo_lightning.types import Message, Prompt


class TemplateError(ValueError):
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

    def prompt(self, prompt: Prompt, observation: str | None, tools: Sequence[Any]) -> Prompt:
        """``prompt`` with the environment's first words and its tools.

        Raises:
            TemplateError: There are tools, and the prompt is no chat; or the template does not show them.
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
            return replace(prompt, text=text, token_ids=(*prompt.token_ids, *self._ids(str(observation))))
        messages = _appended(prompt.messages, observation)
        text = self._rendered(messages, tools=list(tools) or None, add_generation_prompt=True)
        if tools and text == self._rendered(messages, add_generation_prompt=True):
            raise TemplateError(
                "The chat template does not show tools to the model. Take a model that was trained for tool calls, or "
                "set policy.tokenizer to one whose template has them."
            )
        return replace(prompt, messages=messages, text=text, token_ids=tuple(self._ids(text)))

    def between(self, messages: Sequence[Message], last: int | None, *, chat: bool) -> tuple[int, ...]:
        """Token ids from the end of a sampled turn to the beginning of the next one, with ``messages`` between.

        Args:
            last: The sampled turn's last id, which the template may put there again.
            chat: Whether a chat template is used; else the messages' texts follow one another.

        Raises:
            TemplateError: The template writes a turn anew that comes before another.
        """
        if not chat:
            return tuple(self._ids("".join(str(m["content"]) for m in messages)))
        before = [{"role": "user", "content": "x"}, _assistant(messages)]
        closed = self._rendered(before)
        whole = self._rendered([*before, *messages], add_generation_prompt=True)
        end = self._end_of_turn(closed)
        if not whole.startswith(closed[: end[0]]):
            raise TemplateError(
                "The chat template writes an assistant's turn otherwise once another message follows, so that what "
                "stands between turns is not known. Take another template (policy.tokenizer)."
            )
        return tuple(self._ids(whole[end[1] if last in self.ends else end[0] :]))

    def _end_of_turn(self, closed: str) -> tuple[int, int]:
        """Where the token that ends the last turn begins and ends; the text's end where there is none."""
        texts = [t for i in self.ends if (t := self.tokenizer.convert_ids_to_tokens(i)) and t in closed]
        if not texts:
            return len(closed), len(closed)
        start, text = max((closed.rindex(t), t) for t in texts)
        return start, start + len(text)

    def _rendered(self, messages: Sequence[Message], **options: Any) -> str:
        import jinja2

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(m) for m in messages], tokenize=False, **{**self.kwargs, **options}
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(str(m["role"]) for m in messages)
            raise TemplateError(
                f"The chat template refuses messages of the roles {roles}: {error}"
            ) from error

    def _ids(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _assistant(messages: Sequence[Message]) -> Message:
    """A turn before ``messages``; some templates want to see the call that a tool answers."""
    if messages[0]["role"] != "tool":
        return {"role": "assistant", "content": "x"}
    call = {"type": "function", "function": {"name": messages[0].get("name", "unknown"), "arguments": {}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _appended(messages: Sequence[Message], text: str | None) -> tuple[Message, ...]:
    """The messages with ``text`` behind the last one of the user."""
    if not text:
        return tuple(messages)
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    return tuple(
        {**m, "content": f"{m['content']}{text}"} if n == last else m for n, m in enumerate(messages)
    )

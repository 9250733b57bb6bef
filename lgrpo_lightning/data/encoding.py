"""From data rows to prompts: text, token ids, columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lgrpo_lightning.data.chats import check_messages, check_text, open_turn, render, use_parts
from lgrpo_lightning.data.contexts import add_context
from lgrpo_lightning.data.images import COLUMNS, PARTS, RowImages
from lgrpo_lightning.data.json_text import list_called, read_messages
from lgrpo_lightning.data.row_columns import read_template_arguments, refuse_images
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.images import ImageFile
from lgrpo_lightning.types import Message, Prompt

LongPrompts = Literal["error", "drop"]


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Renders and tokenises prompts exactly as the model should see them."""

    tokenizer: Any  # a Hugging Face tokenizer
    max_length: int  # longest prompt, in tokens
    long_prompts: LongPrompts = "error"  # what to do with longer ones
    chat: bool | None = None  # which go through the chat template: all (True), none (False), message lists only (None)
    system_prompt: str | None = None  # first message of every chat that does not bring its own
    prefill: bool = False  # whether a last message of the assistant is what completions go on with; else it is refused
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # more arguments for the chat template
    vocabulary: int | None = None  # token ids that the model has embeddings for; None does not check
    contexts: tuple[str, ...] = ()  # templates of prompts with more context, which are encoded, too
    max_context_length: int | None = None  # longest of these, in tokens; None: as long as a prompt
    images: RowImages | None = None  # finds the images of a row; None: rows have none

    def encode(self, rows: Sequence[Mapping[str, Any]], *, name: str, origin: str) -> list[Prompt]:
        """The prompts of ``rows``, with uids ``name/0``, ``name/1``, …; errors call the rows ``origin``."""
        encoded = (self.encode_row(row, number, name=name, origin=origin) for number, row in enumerate(rows))
        prompts = [prompt for prompt in encoded if prompt is not None]
        if not prompts:
            why = f"every prompt is longer than {self.max_length} tokens" if rows else "there are no rows"
            raise UserError(f"{origin} gives no prompts: {why}.")
        return prompts

    def encode_row(self, row: Mapping[str, Any], number: int, *, name: str, origin: str) -> Prompt | None:
        """The prompt of row ``number``; None where it is left out for its length. Errors as of ``encode``."""
        where = f"{origin}, row {number} (from 0)"
        if "prompt" not in row:
            raise UserError(f"{where}: there is no 'prompt'; the columns are {', '.join(map(repr, row)) or 'none'}.")
        check_text(row, where)
        prompt = row["prompt"]
        messages, arguments = self._read_messages(prompt, where), read_template_arguments(row, where)
        images: tuple[ImageFile, ...] = ()
        if self.images is None:
            refuse_images(row, where)
        else:
            messages, images = self.images.take(row, messages, where)
        if messages is None and arguments:
            raise UserError(
                f"{where}: column 'tools' or 'chat_template_kwargs' is for the chat template, and the prompt is "
                "plain text. Set chat: true, or leave the column out."
            )
        if images and self.contexts:
            raise UserError(f"{where}: a teacher with a context reads text only, and the prompt has images.")
        text, token_ids = self._tokenise(prompt, messages, arguments, where, images)
        encoded = Prompt(
            uid=f"{name}/{number}",
            text=text,
            token_ids=token_ids,
            messages=messages,
            columns={key: value for key, value in row.items() if key not in ("prompt", *(COLUMNS if images else ()))},
            contexts={
                template: self._tokenise(*add_context(template, prompt, messages, row, where), arguments, where)[1]
                for template in self.contexts
            },
            images=images,
        )
        return encoded if self._fits(encoded, origin) else None

    def _tokenise(
        self,
        prompt: str,
        messages: Sequence[Message] | None,
        arguments: Mapping[str, Any],
        where: str,
        images: tuple[ImageFile, ...] = (),
    ) -> tuple[str, tuple[int, ...]]:
        if images and self.images is not None:
            processor = self.images.processor
            try:
                renderer = processor.hf_processor
                text = prompt if messages is None else self._render(messages, arguments, where, renderer)
                ids: Sequence[int] = processor.encode(text, images)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
        elif messages is None:
            text, ids = prompt, self._tokenise_plain(prompt)
        else:
            text = self._render(messages, arguments, where)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        token_ids = tuple(int(i) for i in ids)
        self._check_ids(token_ids, where)
        return text, token_ids

    @cached_property
    def adds_tokens(self) -> bool:
        """Whether the tokenizer puts tokens of its own around a text, such as a beginning of sequence."""
        return bool(self.tokenizer("")["input_ids"])

    def _tokenise_plain(self, text: str) -> list[int]:
        """Token ids of a string that a completion follows: one beginning of sequence, and no end.

        Text that was rendered elsewhere may begin with the token that the tokenizer adds; some tokenizers close what
        they encode.
        """
        ids: list[int] = list(self.tokenizer(text)["input_ids"])
        if not self.adds_tokens:  # a second pass over every text takes seconds for a large set
            return ids
        own: list[int] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        before = next((k for k in range(len(ids)) if own and ids[k : k + len(own)] == own), None)
        if before is None:  # what is added changes how the text is divided
            return ids
        begins = [] if own[0] == self.tokenizer.bos_token_id else ids[:before]
        return [*begins, *own]

    def _check_ids(self, ids: Sequence[int], where: str) -> None:
        """Refuse a prompt with tokens that the model has not."""
        largest = max(ids, default=0)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise UserError(
                f"{where}: the prompt has token {largest} ({self.tokenizer.convert_ids_to_tokens(largest)!r}), but the "
                f"model has embeddings for {self.vocabulary} only. The tokenizer is larger than the model: use the "
                "model's own (policy.tokenizer), or leave such prompts out."
            )

    def _read_messages(self, prompt: Any, where: str) -> tuple[Message, ...] | None:
        """The chat of a prompt, or None where it is used as plain text."""
        if isinstance(prompt, str) and (from_text := read_messages(prompt, where)) is not None:
            prompt = from_text
        if isinstance(prompt, str):
            if not prompt.strip():
                raise UserError(f"{where}: the prompt is empty.")
            if self.chat:
                return self._add_system([{"role": "user", "content": prompt}])
            if self.system_prompt is not None:
                raise UserError(f"{where}: system_prompt is set, but the prompt is a plain string. Set chat: true.")
            return None
        messages = check_messages(prompt, where, images=() if self.images is None else PARTS)
        if self.chat is False:
            raise UserError(f"{where}: the prompt is a list of messages, but chat is false. Leave chat out.")
        if messages[-1]["role"] == "assistant" and not self.prefill:
            raise UserError(
                f"{where}: the last message is the assistant's: the model would be given the answer. Take the "
                "column with the question alone (prompt_column), leave the message out, or set data.prefill: true "
                "where completions are to go on with it."
            )
        return self._add_system(messages)

    def _add_system(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if self.system_prompt is None or messages[0]["role"] == "system":
            return tuple(messages)
        return ({"role": "system", "content": self.system_prompt}, *messages)

    def _render(
        self, messages: Sequence[Message], arguments: Mapping[str, Any], where: str, renderer: Any = None
    ) -> str:
        """The text of a chat.

        Args:
            renderer: What has the chat template; None: the tokenizer.
        """
        import jinja2

        renderer = renderer or self.tokenizer
        model = getattr(self.tokenizer, "name_or_path", "") or "the model"
        if not getattr(renderer, "chat_template", None):
            raise UserError(
                f"{where}: a chat prompt, but the tokenizer of {model} has no chat template. Use an "
                "instruction-tuned model, or string prompts with chat left out."
            )
        options = {**self.chat_template_kwargs, **arguments, **open_turn(messages)}
        try:
            text = use_parts(renderer, messages, render(renderer, messages, **options), **options)
            if "tools" in arguments and text == render(renderer, messages, **{**options, "tools": None}):
                raise UserError("it does not show the tools of column 'tools'")
            if hidden := next((name for name in list_called(messages) if name not in text), None):
                raise UserError(f"it does not show the call of {hidden!r}")
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            cut = "continue_final_message" in str(error)
            why = (
                "it does not leave the assistant's last message as it is (reasoning is cut out, say), so that "
                "nothing can go on with it. End the prompt with another message, or give it as rendered text"
            )
            raise UserError(
                f"{where}: the chat template of {model} refuses the messages: {why if cut else error}"
            ) from error
        return text

    def _fits(self, prompt: Prompt, origin: str) -> bool:
        if not prompt.token_ids:
            raise UserError(f"{origin}: prompt {prompt.uid} has no tokens; its text is {prompt.text!r}.")
        encoded = [("", prompt.token_ids, self.max_length)]
        longest = self.max_context_length or self.max_length
        encoded += [(f", with the context {name!r},", ids, longest) for name, ids in prompt.contexts.items()]
        for what, ids, most in encoded:
            if len(ids) > most and self.long_prompts == "drop":
                return False
            if len(ids) > most:
                raise UserError(
                    f"{origin}: prompt {prompt.uid}{what} has {len(ids)} tokens; at most {most} "
                    "are possible. Shorten it, set long_prompts: drop to leave such rows out, or give it more room "
                    "(max_prompt_length, sampling.max_new_tokens)."
                )
        return True

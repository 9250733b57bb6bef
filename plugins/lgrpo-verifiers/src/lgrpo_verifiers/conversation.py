"""A conversation that verifiers drives, as the one sequence of tokens that is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from lgrpo_lightning import Completion, Environment, Prompt, Sampling
from lgrpo_lightning.data.chats import render
from lgrpo_lightning.environments.episode import Episode
from lgrpo_lightning.environments.messages import make_assistant_message
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call_reader import CallReader, make_call_reader
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.samplers.text import decode
from lgrpo_verifiers.wire import Answer, completion, plain_messages, with_calls


class Elsewhere(Environment):
    """Stands for the environment of an episode, which runs in verifiers; keeps the numbers that it counts."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def respond(self, turns: Sequence[Mapping[str, Any]]) -> None:
        """Never asked: verifiers answers."""
        raise NotImplementedError("verifiers answers the turns of this episode.")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is the same for all conversations of a rollout."""

    template: TurnTemplate  # renders prompts, and what stands between turns
    tool_format: str  # how calls are written
    sampling: Sampling  # of the run; ``max_new_tokens`` is of the whole episode
    max_turns: int  # most turns of the assistant
    max_turn_tokens: int | None  # most tokens of a turn; None: what is left
    model: str  # what verifiers calls the policy

    @cached_property
    def reader(self) -> CallReader:
        """What finds the calls of a turn."""
        return make_call_reader(self.tool_format, self.template)


@dataclass(kw_only=True)
class Conversation:
    """One member of a group, call after call.

    Every call has to go on from the one before: the same messages, the policy's turn as it was given, and something
    new. What was sampled is kept as token ids; only what stands between turns is tokenised.
    """

    rules: Rules
    prompt: Prompt  # of the group; what the environment really begins with once that is known
    member: int
    said: list[dict[str, Any]] = field(default_factory=list)
    tools: Any = None
    turns: int = 0
    why: str = ""  # it failed

    def __post_init__(self) -> None:
        self.told = Elsewhere()
        self.episode = Episode(prompt=self.prompt, member=self.member, environment=self.told)
        self.episode.logprobs.append(torch.zeros(0))
        self.episode.masks.append(torch.zeros(0, dtype=torch.bool))

    def asked(self, body: Mapping[str, Any]) -> Answer | None:
        """Take in what a call says; the answer where nothing is to be drawn for it, else None."""
        if not self.turns:
            self._opens(body)
            return None
        if not self.episode.open:
            return Answer.full("the episode was cut off")
        try:
            return self._goes_on(plain_messages(body["messages"]), body.get("tools") or None)
        except (ValueError, KeyError, TypeError) as error:
            self.fail(f"{type(error).__name__}: {error}")
            return Answer.refused(self.why)

    def _opens(self, body: Mapping[str, Any]) -> None:
        try:
            messages, tools = plain_messages(body["messages"]), body.get("tools") or None
            if tools:
                _ = self.rules.reader  # refused here, before a turn is drawn
            self.prompt = opened(self.rules.template, self.episode.prompt, messages, tools)
        except ValueError as error:
            raise UserError(f"VerifiersSampler: prompt {self.prompt.uid!r}: {error}") from error
        self.episode.prompt, self.tools, self.said = self.prompt, tools, messages

    def _goes_on(self, messages: list[dict[str, Any]], tools: Any) -> Answer | None:
        known = len(self.said)
        if messages[:known] != self.said or len(messages) == known or tools != self.tools:
            raise UserError(rewritten(self.said, messages, tools != self.tools))
        new, last = messages[known:], self.episode.ids[-1] if self.episode.ids else None
        if any(m["role"] == "assistant" for m in new):
            raise UserError("the harness has put in a turn of the assistant that the policy did not take")
        between = self.rules.template.for_prompt(self.prompt).render_between(
            new, last, chat=self.prompt.messages is not None
        )
        if self.turns >= self.rules.max_turns or not self.left(len(between)):
            self.episode.end("length")
            return Answer.full(f"{self.turns} turns, {len(self.episode.ids)} tokens")
        self.episode.add_answer(between, new)
        self.said = messages
        return None

    def left(self, more: int = 0) -> int:
        """How many tokens the next turn may have, after ``more`` others."""
        left = self.rules.sampling.max_new_tokens - len(self.episode.ids) - more
        return max(0, min(left, self.rules.max_turn_tokens or left))

    @property
    def ahead(self) -> Prompt:
        """What the next turn is drawn after; the first turn after the group's own prompt."""
        name = f"{self.prompt.uid}/{self.member}/turn/{self.turns}"
        return replace(self.prompt, uid=name, token_ids=(*self.prompt.token_ids, *self.episode.ids))

    def spoke(self, turn: Completion) -> Answer:
        """The policy has taken a turn: what the call is answered with."""
        prefix, name = self.ahead.token_ids, f"{self.prompt.uid}-{self.member}-{self.turns}"
        calls = self.rules.reader(turn.token_ids, prefix, self.tools) if self.tools else ()
        message = with_calls(make_assistant_message(turn, calls), name=name)
        self.said = [*self.said, *plain_messages([message])]
        self.turns += 1
        self.episode.add_turn(turn, message)
        return completion(
            message,
            model=self.rules.model,
            name=name,
            cut=turn.finish_reason == "length",
            prompt=len(prefix),
            sampled=len(turn.token_ids),
        )

    def fail(self, why: str) -> None:
        """Nothing of the episode is trained; the first reason stays."""
        self.why = self.why or why

    def completion(self, stripped: frozenset[int]) -> Completion:
        """The completion."""
        if self.why:
            self.episode.drop()
        text, ends = decode(self.rules.template.tokenizer, self.episode.ids, stripped)
        return self.episode.make_completion(text, ends)


def opened(template: TurnTemplate, prompt: Prompt, messages: list[dict[str, Any]], tools: Any) -> Prompt:
    """``prompt`` as the environment begins: its own tokens where it says what the prompt says."""
    if prompt.messages is None:
        if tools:
            raise UserError("there are tools, and the prompt is plain text: leave VerifiersPrompts.chat at true")
        return _plain(template.tokenizer, prompt, "".join(m["content"] for m in messages))
    shown = replace(prompt, messages=tuple(messages))
    if tools:
        return template.make_prompt(shown, None, tools)
    if messages == plain_messages(prompt.messages):
        return prompt
    text = render(template.tokenizer, messages, add_generation_prompt=True, **template.for_prompt(prompt).kwargs)
    return replace(shown, text=text, token_ids=_ids(template.tokenizer, text))


def _plain(tokenizer: Any, prompt: Prompt, text: str) -> Prompt:
    """A plain prompt with another text, behind the same beginning of sequence."""
    if text == prompt.text:
        return prompt
    begins = len(prompt.token_ids) - len(_ids(tokenizer, prompt.text))
    return replace(prompt, text=text, token_ids=(*prompt.token_ids[:begins], *_ids(tokenizer, text)))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"])


def rewritten(said: Sequence[Any], messages: Sequence[Any], tools: bool) -> str:
    """Why a call does not go on from the one before."""
    pairs = enumerate(zip(said, messages, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(said), len(messages)))
    what = "its tools are others" if tools else f"message {at} is not what was said before, or nothing is new"
    return (
        f"the harness has written the conversation anew ({what}). A completion is one sequence of tokens, in which "
        "every turn follows the one before; a harness that summarises, forks or edits its history cannot be trained so"
    )

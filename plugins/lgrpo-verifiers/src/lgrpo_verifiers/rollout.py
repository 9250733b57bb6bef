"""One rollout: episodes begin, their calls are gathered and drawn, and what they are worth is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lgrpo_lightning import Completion, Prompt, Sampling
from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.errors import UserError
from lgrpo_verifiers.conversation import Conversation
from lgrpo_verifiers.service import Seat, Service
from lgrpo_verifiers.table import Call, Table


@dataclass(kw_only=True)
class Play:
    """All episodes of one call of the sampler.

    Attributes:
        groups: The conversations, prompt by prompt.
        tasks: verifiers' task of each prompt.
        owner: The ``VerifiersSampler``.
        sampling, random_key: Of the call.
        shown: Number of a group → the prompt that its environment really began with.
    """

    groups: Sequence[Sequence[Conversation]]
    tasks: Sequence[Any]
    owner: Any
    sampling: Sampling
    random_key: RandomKey
    shown: dict[int, Prompt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seats = [(g, c) for g, group in enumerate(self.groups) for c in group]
        self.table, self.live = Table(), set[int]()
        self.first: dict[int, Sequence[Completion]] = {}
        self.agents: dict[int, tuple[str, str]] = {}
        self.ended: dict[int, Any] = {}

    def run(self) -> None:
        """Play all episodes to their end."""
        rest = list(range(len(self.seats)))[::-1]
        service = self.owner.service()
        try:
            while rest or self.live:
                service = self.owner.service()
                while rest and len(self.live) < self.owner.workers:
                    self._begin(service, rest.pop())
                calls, late = self.table.gathered(self.owner.timeout)
                self._give_up(service, late)
                self._draw([call for call in calls if call.seat in self.live and self._takes(call)])
                self.live.difference_update(tuple(self.ended))
        finally:
            if self.live:  # the run stops
                service.give_up(sorted(self.live))
        for number, (_, conversation) in enumerate(self.seats):
            worth(conversation, self.ended.get(number), self.agents.get(number))

    def _begin(self, service: Service, number: int) -> None:
        group, _ = self.seats[number]
        self.live.add(number)
        self.table.sits(number)
        service.play(
            Seat(
                number=number,
                task=self.tasks[group],
                table=self.table,
                over=lambda found: self.ended.setdefault(number, found),
            )
        )

    def _give_up(self, service: Service, late: list[int]) -> None:
        """Drop what takes too long, and all that runs beside it where nothing moves any more."""
        if not late:
            return
        why = f"no call and no end within {self.owner.timeout:g} seconds (timeout)"
        for number in late:
            self.seats[number][1].fail(why)
            self.live.discard(number)
        if not service.give_up(late):
            for number in sorted(self.live - set(self.ended)):
                self.seats[number][1].fail(f"another episode blocks the event loop: {why}")
            self.live.clear()
            self.owner.hangs()

    def _takes(self, call: Call) -> bool:
        """Whether something is to be drawn for a call; else it is answered."""
        group, conversation = self.seats[call.seat]
        known = self.agents.setdefault(call.seat, call.agent)
        if known[0] != call.agent[0]:
            raise UserError(
                f"VerifiersSampler: two agents of {self.owner.environment!r} ask the policy, {known[0]!r} and "
                f"{call.agent[0]!r}; a completion is one conversation. Give the others a model of their own: "
                f"environment_args: {{{call.agent[0]}: {{model: …, client: {{base_url: …}}}}}}."
            )
        answer = conversation.asked(call.body)
        if known[1] != call.agent[1]:
            conversation.fail("an agent is run twice within one episode (a retry, or several attempts)")
        if answer is not None:
            self.table.answer(call, answer)
            return False
        if not conversation.turns:
            self._check(group, conversation.prompt)
        return True

    def _check(self, group: int, prompt: Prompt) -> None:
        """Members of a group begin alike, and what they begin with fits into the model."""
        if self.shown.setdefault(group, prompt).token_ids != prompt.token_ids:
            raise UserError(
                f"VerifiersSampler: the environment begins differently for completions of prompt {prompt.uid!r}: "
                f"{self.shown[group].text!r} and {prompt.text!r}. The completions of a group are compared, and need "
                "one beginning: let it follow from the task."
            )
        context, limit = self.owner.source.context_length, self.sampling.max_new_tokens
        if len(prompt.token_ids) + limit > context:
            raise UserError(
                f"Prompt {prompt.uid!r} has {len(prompt.token_ids)} tokens as the environment begins, and "
                f"sampling.max_new_tokens is {limit}: the model's context has {context}. Lower "
                "sampling.max_new_tokens or data.max_prompt_length."
            )

    def _draw(self, calls: Sequence[Call]) -> None:
        """Draw a turn for each call: first ones group by group, as without an environment, the others alone."""
        begun = sorted({self.seats[c.seat][0] for c in calls if not self.seats[c.seat][1].turns} - set(self.first))
        if begun:
            limit = self.groups[begun[0]][0].left()
            drawn = self._sampled([self.shown[g] for g in begun], len(self.groups[begun[0]]), limit)
            self.first.update(zip(begun, drawn, strict=True))
        later: dict[int, list[Call]] = {}
        for call in calls:
            group, conversation = self.seats[call.seat]
            if conversation.turns:
                later.setdefault(conversation.left(), []).append(call)
            else:
                self._answered(call, self.first[group][conversation.member])
        for limit in sorted(later, reverse=True):  # those with as many tokens left together
            turns = self._sampled([self.seats[c.seat][1].ahead for c in later[limit]], 1, limit)
            for call, (turn,) in zip(later[limit], turns, strict=True):
                self._answered(call, turn)

    def _sampled(self, prompts: list[Prompt], count: int, limit: int) -> list[Sequence[Completion]]:
        sampling = replace(self.sampling, max_new_tokens=limit)
        drawn = self.owner.sampler.sample(prompts, count, sampling=sampling, random_key=self.random_key)
        return [group.completions for group in drawn]

    def _answered(self, call: Call, turn: Completion) -> None:
        self.table.answer(call, self.seats[call.seat][1].spoke(turn))


def worth(conversation: Conversation, found: Any, agent: tuple[str, str] | None) -> None:
    """Note how an episode ended: its rewards and metrics, or why it failed.

    Args:
        found: verifiers' episode, or what was raised; None where it was given up.
        agent: The agent that asked the policy, and the id of its trace.
    """
    traces = list(getattr(found, "traces", ()))
    trace = next((t for t in traces if agent is not None and t.id == agent[1]), None)
    if isinstance(found, BaseException):
        conversation.fail(f"{type(found).__name__}: {found}")
    elif agent is None:
        conversation.fail(problem(found, traces) or "the environment has never asked the policy")
    elif trace is None or not found.ok:
        conversation.fail(problem(found, traces) or "the episode has no trace of the agent")
    elif missing := sorted(name for name, reward in trace.rewards.items() if reward is None):
        conversation.fail(f"no reward was given for {', '.join(missing)} ({trace.stop_condition})")
    if conversation.why or trace is None:
        return
    if conversation.episode.open:
        conversation.episode.end("length" if trace.is_truncated or trace.is_timeout else "stop")
    conversation.episode.rewards = (float(trace.reward) if trace.rewards else math.nan,)
    numbers = {**{n: r.score for n, r in trace.rewards.items()}, **trace.metrics}
    conversation.told.metrics.update({f"verifiers/{name}": float(v) for name, v in numbers.items() if v is not None})


def problem(found: Any, traces: Sequence[Any]) -> str:
    """The last error of an episode, or of its traces, in a line; "" where there is none."""
    errors = [*(e for t in traces for e in t.errors), *getattr(found, "errors", ())]
    return f"{errors[-1].type}: {errors[-1].message}" if errors else ""

"""A sampler around a sampler: the policy takes turns with an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lgrpo_lightning.contracts import RandomKey, Sampler, WeightSource
from lgrpo_lightning.environments.driver import EpisodeDriver, OnError
from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.episode import Episode
from lgrpo_lightning.environments.isolation.workers import Workers
from lgrpo_lightning.environments.limits import name_class
from lgrpo_lightning.environments.make import make_environments, place_in_processes
from lgrpo_lightning.environments.messages import make_assistant_message
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call_reader import CallReader, check_format, make_call_reader
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.around import SamplerAround
from lgrpo_lightning.samplers.noise import make_row_key
from lgrpo_lightning.samplers.text import decode, list_stripped
from lgrpo_lightning.types import Completion, Group, Prompt

Isolation = Literal["thread", "process"]


class EnvironmentSampler(SamplerAround):
    """Draws an assistant's turn, hands it to the environment, appends what comes back, and goes on until the end.

    What the environment says are tokens of the completion that are not trained: mask False, log-prob 0. What was
    sampled is never tokenised again: the sequence that the policy saw is the one that is trained. An episode ends where
    the environment says so, and is cut off at ``max_turns``, ``sampling.max_new_tokens`` (of the whole episode, the
    environment's tokens included) or where a turn is. Each completion has an environment of its own; those of one turn
    run side by side, on threads or in processes.

    Args:
        environment: What answers: an ``Environment``; or, by TRL's conventions, the import path of a class with
            ``reset(**columns)``, public methods as tools and perhaps ``get_reward()``; or a mapping of names, among
            which the data column ``environment`` chooses, to such paths.
        tools: Import paths of functions that the policy may call: type-hinted, with a docstring of Google's style.
        sampler: Who draws the turns. Default ``TransformersSampler()``.
        max_turns: Most turns of the assistant.
        max_turn_tokens: Most tokens of one turn; null: what is left of the episode.
        tool_format: How calls are written: "auto" (the format that reads back what the chat template writes),
            "transformers" (the tokenizer's response template), "vllm:" and the name of a tool parser of vLLM, or one of
            ``FORMATS``, such as "hermes", "qwen3_coder", "glm", "harmony", "gemma4", "llama3", "json" and "pythonic".
        timeout: Seconds that a call of the environment, or of a tool, may take.
        on_error: What a call leads to that raises, takes too long or returns no messages: a "message" to the policy,
            which goes on, or the episode is dropped: nothing of it is trained, and its reward does not apply.
        max_errors_in_a_row: So many rollouts in a row in which every answer, or every reward, of the environment fails
            end the run.
        max_answer_chars: Longest answer of the environment, all its messages together, in characters; a longer one is
            cut off, and says so.
        workers: Most environments that run at a time, and most processes.
        isolation: Where environments and tools run: on a "thread" of the training process; or in a "process" apart,
            so that one that crashes does not end the run, and one that hangs is killed. Episodes share processes
            where they are more than ``workers``, and those of a process that ends are dropped, whatever ``on_error``;
            tools without an object go on in another.
        chat_template_kwargs: More arguments for the chat template; those of ``data.chat_template_kwargs``.

    Raises:
        ValueError: An argument is out of range, or there is neither an environment nor a tool.
    """

    takes_turns = True

    def __init__(
        self,
        environment: Environment | str | dict[str, str] | None = None,
        tools: list[str] | None = None,
        sampler: Sampler | None = None,
        max_turns: int = 8,
        max_turn_tokens: int | None = None,
        tool_format: str = "auto",
        timeout: float = 30.0,
        on_error: OnError = "message",
        max_errors_in_a_row: int = 10,
        max_answer_chars: int = 20000,
        workers: int = 8,
        isolation: Isolation = "thread",
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        require(
            "EnvironmentSampler: ",
            locals(),
            (max_turns >= 1, "max_turns", "at least 1"),
            (max_turn_tokens is None or max_turn_tokens >= 1, "max_turn_tokens", "at least 1, or null"),
            (timeout > 0, "timeout", "above 0"),
            (on_error in ("message", "drop"), "on_error", "'message' or 'drop'"),
            (max_errors_in_a_row >= 1, "max_errors_in_a_row", "at least 1"),
            (max_answer_chars >= 1, "max_answer_chars", "at least 1"),
            (workers >= 1, "workers", "at least 1"),
            (isolation in ("thread", "process"), "isolation", "'thread' or 'process'"),
        )
        super().__init__(sampler)
        self.environment, self.tools, self.tool_format = environment, tools, tool_format
        self.max_turns, self.max_turn_tokens = max_turns, max_turn_tokens
        self.timeout, self.on_error, self.max_errors_in_a_row = timeout, on_error, max_errors_in_a_row
        self.max_answer_chars, self.workers, self.isolation = max_answer_chars, workers, isolation
        self.chat_template_kwargs = mapped("EnvironmentSampler: chat_template_kwargs", chat_template_kwargs or {})
        check_format(tool_format, "EnvironmentSampler")
        self.prototypes = make_environments(environment, tools, timeout=timeout)
        self.processes: Workers | None = None

    def setup(self, source: WeightSource) -> None:
        """Passed on; and the environments are made ready for the policy's chat template.

        Raises:
            ValueError: An environment cannot be made in a process of its own; or calls are read otherwise than written.
        """
        super().setup(source)
        self.template = TurnTemplate(
            tokenizer=source.tokenizer, ends=tuple(source.eos_token_ids), kwargs=self.chat_template_kwargs
        )
        self.reader = self._make_reader()
        self.driver = EpisodeDriver(
            self._place_prototypes(),
            timeout=self.timeout,
            on_error=self.on_error,
            max_answer_chars=self.max_answer_chars,
            workers=self.workers,
            max_errors_in_a_row=self.max_errors_in_a_row,
        )

    def _make_reader(self) -> CallReader | None:
        """What finds the calls of a turn; None where no format does, and the environments may read turns themselves."""
        try:
            return make_call_reader(self.tool_format, self.template)
        except ValueError as error:
            tools = any(isinstance(e, ToolEnvironment) and e.tools for e in self.prototypes.values())
            if tools or self.tool_format != "auto":
                raise UserError(f"EnvironmentSampler: {error}") from error
            return None

    def _place_prototypes(self) -> Mapping[str | None, Environment]:
        """What environments are copies of, where they are to live."""
        self._end_processes()
        if self.isolation == "thread":
            return self.prototypes
        self.processes, placed = place_in_processes(self.prototypes, self.workers, self.timeout)
        return placed

    def _end_processes(self) -> None:
        if self.processes is not None:
            self.processes.close()
        self.processes = None

    def teardown(self) -> None:
        """Passed on; and the environments' processes end."""
        self._end_processes()
        super().teardown()

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group of episodes per prompt, in order."""
        if self.processes is not None:
            self.processes.prepare(len(prompts) * group_size)  # they start while the first turns are drawn
        self.driver.begin_rollout()
        with self.open_model():
            groups = self._begin(prompts, group_size, sampling.max_new_tokens, random_key)
            episodes = [episode for group in groups for episode in group]
            self._draw_first_turns(groups, group_size, sampling, random_key)
            for turn in range(1, self.max_turns + 1):
                self._answer([e for e in episodes if e.open], sampling, last=turn == self.max_turns)
                if not (running := [e for e in episodes if e.open]):
                    break
                self._draw_turns(running, turn, sampling, random_key)
        self.driver.call_each(episodes, self.driver.reward)
        if episodes:
            self.driver.end_rollout(name_class(episodes[0].environment))
        tokenizer, ends = self.source.tokenizer, (*self.source.eos_token_ids, *self.source.pad_token_ids)
        stripped = list_stripped(tokenizer, ends, sampling)
        sampled = [
            Group(
                prompt=group[0].prompt,
                completions=tuple(e.make_completion(*decode(tokenizer, e.ids, stripped)) for e in group),
            )
            for group in groups
        ]
        # after the completions, whose metrics are read off the environments
        self.driver.call_each(episodes, self.driver.end_episode)
        return sampled

    def _begin(self, prompts: Sequence[Prompt], count: int, limit: int, random_key: RandomKey) -> list[list[Episode]]:
        """Episodes whose environments are reset, with the prompts that their first turns are drawn after."""
        groups = []
        for prompt in prompts:
            seed = make_row_key(random_key, prompt.uid, 0) & 0x7FFFFFFF
            episodes, observation = self.driver.begin_episodes(prompt, count, seed)
            shown = self.template.make_prompt(prompt, observation, episodes[0].environment.tools)
            if len(shown.token_ids) + limit > self.source.context_length:
                raise UserError(
                    f"Prompt {prompt.uid!r} has {len(shown.token_ids)} tokens with its tools and what the environment "
                    f"says first ({len(prompt.token_ids)} without), and sampling.max_new_tokens is {limit}: the "
                    f"model's context has {self.source.context_length}. Lower sampling.max_new_tokens or "
                    "data.max_prompt_length."
                )
            for episode in episodes:
                episode.prompt = shown
            groups.append(episodes)
        return groups

    def _draw_first_turns(
        self, groups: Sequence[Sequence[Episode]], count: int, sampling: Sampling, random_key: RandomKey
    ) -> None:
        """Drawn group by group, as without an environment."""
        prompts = [group[0].prompt for group in groups]
        first = replace(sampling, max_new_tokens=self._limit_turn(sampling, 0))
        drawn = self.sampler.sample(prompts, count, sampling=first, random_key=random_key)
        for episodes, group in zip(groups, drawn, strict=True):
            for episode, turn in zip(episodes, group.completions, strict=True):
                self._add_turn(episode, turn)

    def _draw_turns(self, running: Sequence[Episode], turn: int, sampling: Sampling, random_key: RandomKey) -> None:
        """A turn of every episode that goes on, drawn together, each under a name of its own."""
        prompts = [
            replace(e.prompt, uid=f"{e.prompt.uid}/{e.member}/turn/{turn}", token_ids=(*e.prompt.token_ids, *e.ids))
            for e in running
        ]
        limits = [self._limit_turn(sampling, len(e.ids)) for e in running]
        drawn = self.sample_each(prompts, limits, sampling=sampling, random_key=random_key)
        for episode, completion in zip(running, drawn, strict=True):
            self._add_turn(episode, completion)

    def _limit_turn(self, sampling: Sampling, taken: int) -> int:
        left = sampling.max_new_tokens - taken
        return min(left, self.max_turn_tokens or left)

    def _add_turn(self, episode: Episode, turn: Completion) -> None:
        prefix, tools = (*episode.prompt.token_ids, *episode.ids), episode.environment.tools
        calls = self.reader(turn.token_ids, prefix, tools) if self.reader and tools else ()
        episode.add_turn(turn, make_assistant_message(turn, calls))

    def _answer(self, running: Sequence[Episode], sampling: Sampling, *, last: bool) -> None:
        """Append what the environments say to the turns just taken."""
        for episode, messages in zip(running, self.driver.call_each(running, self.driver.answer), strict=True):
            if not episode.open:
                continue
            if messages is None:
                episode.end("stop")
                continue
            between = self.template.for_prompt(episode.prompt).render_between(
                messages, episode.ids[-1] if episode.ids else None, chat=episode.prompt.messages is not None
            )
            if last or len(episode.ids) + len(between) >= sampling.max_new_tokens:
                episode.end("length")
            else:
                episode.add_answer(between, messages)

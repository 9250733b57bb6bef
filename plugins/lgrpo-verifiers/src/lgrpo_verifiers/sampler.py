"""A sampler around a sampler: environments of verifiers drive the episodes, and the policy takes the turns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lgrpo_lightning import Group, Prompt, Sampler, Sampling
from lgrpo_lightning.contracts import RandomKey, WeightSource
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call_reader import check_format
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.samplers.around import SamplerAround
from lgrpo_lightning.samplers.text import list_stripped
from lgrpo_verifiers.configuration import Tasks, environment_config
from lgrpo_verifiers.conversation import Conversation, Rules
from lgrpo_verifiers.rollout import Play
from lgrpo_verifiers.service import MODEL, Service


class VerifiersSampler(SamplerAround):
    """Lets an environment of verifiers play its episodes, and draws the turns that it asks of the policy.

    The environment runs as under verifiers' own commands, with its harness, tools, limits and rewards; its calls of the
    model come here. Those of all episodes are gathered and drawn together. What was sampled is never tokenised again;
    what comes between turns is masked, with log-prob 0. The reward is the trace's, the sum of its rewards by weight;
    each of them and the metrics are logged as ``verifiers/<name>``. ``EnvironmentReward`` reads the reward.

    Sampling is the run's: a temperature or a limit that the environment asks for itself is not read.

    Args:
        environment: Id of the installed package (or module) that has the tasks, such as ``my-env``.
        environment_args: What stands under ``--env`` of verifiers' commands: ``taskset``, ``agent`` or other roles,
            ``id``, …. Without a harness an agent has ``ChatHarness``, without a runtime ``subprocess``.
        sampler: Who draws the turns. Default ``TransformersSampler()``.
        max_turns: Most turns of the policy in an episode.
        max_turn_tokens: Most tokens of one turn; null: what is left of the episode (``sampling.max_new_tokens``).
        tool_format: How calls are written, as in ``EnvironmentSampler``; "auto" is the format that reads back what the
            chat template writes.
        timeout: Seconds that an environment may take from one call to the next, its beginning and its rewards included;
            an episode that takes longer is dropped.
        workers: Most episodes that run at a time.
        chat_template_kwargs: More arguments for the chat template; those of ``data.chat_template_kwargs``.

    Raises:
        ValueError: An argument is out of range, or verifiers refuses the environment.
    """

    takes_turns = True

    def __init__(
        self,
        environment: str,
        environment_args: dict[str, Any] | None = None,
        sampler: Sampler | None = None,
        max_turns: int = 16,
        max_turn_tokens: int | None = None,
        tool_format: str = "auto",
        timeout: float = 120.0,
        workers: int = 64,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        turn_tokens = max_turn_tokens is None or max_turn_tokens >= 1
        require(
            "VerifiersSampler: ",
            locals(),
            (max_turns >= 1, "max_turns", "at least 1"),
            (turn_tokens, "max_turn_tokens", "at least 1, or null"),
            (timeout > 0, "timeout", "above 0"),
            (workers >= 1, "workers", "at least 1"),
        )
        check_format(tool_format, "VerifiersSampler")
        super().__init__(sampler)
        if self.sampler.takes_turns:
            raise UserError(
                f"VerifiersSampler: sampler is {type(self.sampler).__name__}, which takes turns with an environment of "
                "its own. Take one that draws single completions, such as TransformersSampler."
            )
        self.environment = environment
        self.environment_args = mapped("VerifiersSampler: environment_args", environment_args or {})
        self.max_turns, self.max_turn_tokens, self.tool_format = max_turns, max_turn_tokens, tool_format
        self.timeout, self.workers = timeout, workers
        self.chat_template_kwargs = mapped("VerifiersSampler: chat_template_kwargs", chat_template_kwargs or {})
        environment_config("VerifiersSampler", environment, self.environment_args)
        self._service: Service | None = None
        self._tasks: Tasks | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_service": None, "_tasks": None}

    def setup(self, source: WeightSource) -> None:
        """Passed on; and the chat template is read."""
        super().setup(source)
        self.template = TurnTemplate(
            tokenizer=source.tokenizer, ends=tuple(source.eos_token_ids), kwargs=self.chat_template_kwargs
        )

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """One group of episodes per prompt, in order.

        Raises:
            ValueError: A prompt is no task of the environment, the members of a group begin differently, or more than
                one agent of the environment asks the policy.
        """
        rules = self._rules(sampling)
        tasks = [self._task(prompt) for prompt in prompts]
        groups = [[Conversation(rules=rules, prompt=p, member=m) for m in range(group_size)] for p in prompts]
        play = Play(groups=groups, tasks=tasks, owner=self, sampling=sampling, random_key=random_key)
        with self.open_model():
            play.run()
        self._warn([c for group in groups for c in group])
        stripped = list_stripped(
            self.source.tokenizer, (*self.source.eos_token_ids, *self.source.pad_token_ids), sampling
        )
        return [
            Group(prompt=play.shown.get(g) or group[0].prompt, completions=tuple(c.completion(stripped) for c in group))
            for g, group in enumerate(groups)
        ]

    def _rules(self, sampling: Sampling) -> Rules:
        return Rules(
            template=self.template,
            tool_format=self.tool_format,
            sampling=sampling,
            max_turns=self.max_turns,
            max_turn_tokens=self.max_turn_tokens,
            model=MODEL,
        )

    def _task(self, prompt: Prompt) -> Any:
        if not {"task_index", "task_key"} <= set(prompt.columns):
            raise UserError(
                f"VerifiersSampler: prompt {prompt.uid!r} has no columns task_index and task_key. Take data from "
                "VerifiersPrompts (data.train)."
            )
        if self._tasks is None:
            import verifiers.v1 as vf

            config = environment_config("VerifiersSampler", self.environment, self.environment_args)
            self._tasks = Tasks(vf.load_taskset(config.taskset))
        return self._tasks.at(int(prompt.columns["task_index"]), str(prompt.columns["task_key"]))

    def service(self) -> Service:
        """What plays the episodes; begun where there is none, or the last one hangs."""
        if self._service is None:
            config = environment_config("VerifiersSampler", self.environment, self.environment_args)
            self._service = Service(config, timeout=max(60.0, self.timeout))
        return self._service

    def hangs(self) -> None:
        """The service does not answer: it is left alone, and another one begins where it is needed."""
        self._service = None

    def _warn(self, conversations: Sequence[Conversation]) -> None:
        failed = [c for c in conversations if c.why]
        if failed:
            warnings.warn(
                f"VerifiersSampler: {len(failed)} of {len(conversations)} episodes failed and are not trained "
                f"(episodes/failed). Prompt {failed[0].prompt.uid!r}, member {failed[0].member}: {failed[0].why}",
                stacklevel=2,
            )

    def teardown(self) -> None:
        """Passed on; the environment is stopped."""
        if self._service is not None:
            self._service.close()
            self._service = None
        super().teardown()

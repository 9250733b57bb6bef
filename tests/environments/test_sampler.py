"""Episodes of a real tiny model: what is trained is what was sampled, turn after turn."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.environments.messages import check_answer, check_rewards
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards import EnvironmentReward, FormatMatch, RewardSum
from lgrpo_lightning.samplers import EnvironmentSampler, ForkingSampler, TransformersSampler
from lgrpo_lightning.types import Group
from tests.environments.partners import Echo, Endless, Faulty
from tests.models import tokenizer
from tests.samplers.test_transformers import RANDOM_KEY, ids, prompts

SAMPLING = Sampling(max_new_tokens=48, stop=("7",))


@pytest.fixture(scope="module")
def policy(model_folder: Callable[[str], Path]) -> Policy:
    return Policy(PolicyConfig(path=str(model_folder("llama"))))


def source(policy: Policy) -> PolicySource:
    return PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 3)


def drawn(policy: Policy, environment: Any, *, count: int = 4, asked: Any = None, **options: Any) -> list[Group]:
    sampling = options.pop("sampling", SAMPLING)
    made = EnvironmentSampler(environment, **options)
    made.setup(source(policy))
    return made.sample(asked or prompts(), count, sampling=sampling, random_key=RANDOM_KEY)


@pytest.mark.parametrize("layout", ["padded", "tree"])
@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.long), 0.7])
def test_logprobs_are_those_of_a_teacher_forced_pass(policy: Policy, layout: Any, temperature: float) -> None:
    sampling = Sampling(max_new_tokens=48, stop=("7",), temperature=temperature)
    groups = drawn(policy, Echo(), sampling=sampling)
    answers = 0
    for group in groups:
        scores = policy([group.prompt.token_ids] * 4, group.sequences, temperature=temperature, layout=layout).logprobs
        for row, rollout in zip(scores, group.completions, strict=True):
            own = rollout.mask
            answers += int((~own).sum())
            assert float(rollout.logprobs[~own].abs().sum()) == 0
            torch.testing.assert_close(row[: len(rollout)][own], rollout.logprobs[own], atol=1e-4, rtol=0)
    assert answers > 20


def test_turns_tile_the_completion_and_say_what_it_says(policy: Policy) -> None:
    seen = 0
    for group in drawn(policy, Echo(turns=3)):
        for rollout in group.completions:
            seen += len(rollout.turns)
            assert [t.start for t in rollout.turns] == [0, *(t.end for t in rollout.turns[:-1])]
            assert rollout.turns[-1].end == len(rollout) <= 48
            for turn in rollout.turns:
                here = rollout.mask[turn.start : turn.end]
                assert bool((here == (turn.role == "assistant")).all())
                assert rollout.text_between(turn.start, turn.end) == "".join(m["content"] for m in turn.messages)
            spoken = [t for t in rollout.turns if t.role == "assistant"]
            lengths = [float(len(t.messages[0]["content"])) for t in spoken]
            assert list(rollout.rewards) in (lengths, [*lengths[:-1], 0.0])  # the last one may be cut off
            assert rollout.metrics["episodes/turns"] == len(spoken)
    assert seen > 60


def test_the_first_turns_are_those_of_the_inner_sampler(policy: Policy) -> None:
    inner = TransformersSampler()
    inner.setup(source(policy))
    plain = inner.sample(prompts(), 4, sampling=SAMPLING, random_key=RANDOM_KEY)
    for group, alone in zip(drawn(policy, Echo()), plain, strict=True):
        for rollout, first in zip(group.completions, alone.completions, strict=True):
            assert rollout.token_ids[: rollout.turns[0].end] == first.token_ids


@pytest.mark.long
def test_nothing_depends_on_the_batch_or_the_number_of_threads(policy: Policy) -> None:
    together = drawn(policy, Echo())
    assert ids(together) == ids(drawn(policy, Echo(), workers=1))
    assert ids(together) == ids(drawn(policy, Echo(), asked=prompts()[::-1]))[::-1]
    assert ids(together)[2:3] == ids(drawn(policy, Echo(), asked=prompts()[2:3]))
    assert [g[:2] for g in ids(together)] == ids(drawn(policy, Echo(), count=2))


def test_environments_are_used_again(policy: Policy) -> None:
    made = EnvironmentSampler(Echo())
    made.setup(source(policy))
    first, second = (made.sample(prompts(), 4, sampling=SAMPLING, random_key=RANDOM_KEY) for _ in range(2))
    assert ids(first) == ids(second)
    assert sum(map(len, made.driver.idle.values())) == 16


def test_what_the_environment_says_first_stands_in_the_prompt(policy: Policy) -> None:
    group = drawn(policy, Echo(hint="9="), count=2)[0]
    assert group.prompt.text == "1+1=9="
    assert group.prompt.token_ids == tuple(tokenizer()("1+1=9=")["input_ids"])


def test_it_is_cut_off_where_there_is_no_end(policy: Policy) -> None:
    few_turns = {"max_turns": 2}, 2, 1000
    few_tokens = {"sampling": Sampling(max_new_tokens=12, stop=("7",))}, 12, 12
    for options, turns, tokens in (few_turns, few_tokens):
        for group in drawn(policy, Endless(), **options):
            for rollout in group.completions:
                assert rollout.finish_reason == "length"
                assert rollout.turns[-1].role == "assistant"
                assert 1 <= sum(t.role == "assistant" for t in rollout.turns) <= turns
                assert len(rollout) <= tokens


def test_a_turn_has_a_limit_of_its_own(policy: Policy) -> None:
    for group in drawn(policy, Endless(), max_turn_tokens=5):
        for rollout in group.completions:
            assert all(t.end - t.start <= 5 for t in rollout.turns if t.role == "assistant")


@pytest.mark.parametrize("how", ["raises", "number", "text", "bytes", "nothing", "huge", "hangs", "reward"])
@pytest.mark.parametrize("on_error", ["message", "drop"])
def test_an_environment_that_fails_ends_no_run(policy: Policy, how: str, on_error: Any) -> None:
    options: dict[str, Any] = {"timeout": 0.3} if how == "hangs" else {}
    groups = drawn(policy, Faulty(how), asked=prompts()[:2], count=2, on_error=on_error, max_answer_chars=5, **options)
    rollouts = [r for g in groups for r in g.completions]
    later = [r for r in rollouts if sum(t.role == "assistant" for t in r.turns) > 1]
    assert later, "nobody came to the second turn"
    dropped = [r.metrics["episodes/failed"] for r in later]
    if how == "huge":
        assert dropped == [0.0] * len(later)
        assert all("cut off" in t.messages[0]["content"] for r in later for t in r.turns[3:4])
    elif how == "reward" or on_error == "drop":
        assert dropped == [1.0] * len(later)
        assert all(r.rewards[0] != r.rewards[0] and not bool(r.mask.any()) for r in later)
    else:
        assert dropped == [0.0] * len(later)


def test_an_environment_that_hung_is_not_used_again(policy: Policy) -> None:
    made = EnvironmentSampler(Faulty("hangs"), timeout=0.2, on_error="drop")
    made.setup(source(policy))
    groups = made.sample(prompts()[:1], 2, sampling=SAMPLING, random_key=RANDOM_KEY)
    failed = sum(r.metrics["episodes/failed"] for g in groups for r in g.completions)
    assert sum(map(len, made.driver.idle.values())) == 2 - failed < 2


class Exits(Echo):
    """Ends the process, or so it thinks."""

    def __init__(self, error: type[BaseException] = SystemExit) -> None:
        super().__init__()
        self.error = error

    def respond(self, turns: Any) -> Any:
        raise self.error

    def reward(self) -> Any:
        return 1.0


def test_an_environment_that_exits_does_not_end_the_run(policy: Policy) -> None:
    for on_error, failed, error in (("drop", 1.0, SystemExit), ("message", 0.0, CancelledError)):
        groups = drawn(policy, Exits(error), asked=prompts()[:1], count=2, on_error=on_error)
        open_once = [r for g in groups for r in g.completions if r.finish_reason == "stop" or len(r.turns) > 1]
        assert open_once
        assert {r.metrics["episodes/failed"] for r in open_once} == {failed}


class HangsThenRaises(Echo):
    """Takes too long for its first answer, and raises at the second."""

    def respond(self, turns: Any) -> Any:
        self.paid.append(0.0)
        if len(self.paid) == 1:
            time.sleep(2)
        raise RuntimeError("broken")


def test_what_hung_once_is_not_used_again(policy: Policy) -> None:
    made = EnvironmentSampler(HangsThenRaises(), timeout=0.2)
    made.setup(source(policy))
    made.sample(prompts()[:1], 2, sampling=SAMPLING, random_key=RANDOM_KEY)
    answered = [e for found in made.driver.idle.values() for e in found if e.paid]  # type: ignore[attr-defined]
    assert not answered


class CannotClose(Echo):
    """Cannot be closed."""

    def close(self) -> None:
        raise RuntimeError("stuck")


def test_an_environment_that_cannot_be_closed_is_left_alone(policy: Policy) -> None:
    made = EnvironmentSampler(CannotClose())
    made.setup(source(policy))
    made.sample(prompts()[:1], 2, sampling=SAMPLING, random_key=RANDOM_KEY)
    assert not any(made.driver.idle.values())


class Asked(TransformersSampler):
    """Remembers how long contexts and completions might have become."""

    longest = 0

    def sample(self, asked: Any, group_size: int, *, sampling: Sampling, random_key: Any) -> list[Group]:
        most = max(len(p.token_ids) for p in asked) + sampling.max_new_tokens
        self.longest = max(self.longest, most)
        return super().sample(asked, group_size, sampling=sampling, random_key=random_key)


def test_no_turn_is_drawn_beyond_the_episodes_budget(policy: Policy) -> None:
    inner = Asked()
    groups = drawn(policy, Echo(turns=5), sampler=inner)
    assert any(len(r.turns) > 3 for g in groups for r in g.completions)
    assert inner.longest == max(len(p.token_ids) for p in prompts()) + SAMPLING.max_new_tokens


def test_a_prompt_that_grows_beyond_the_context_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"has 24\d tokens with its tools .* context\n? ?has 256"):
        drawn(policy, Echo(hint="1" * 240), count=2)


def test_no_reward_applies_to_what_was_dropped(policy: Policy) -> None:
    groups = drawn(policy, Faulty("raises"), asked=prompts()[:2], count=4, on_error="drop")
    trees = [ProcessTree.from_sequences(g.sequences) for g in groups]
    rewards = RewardSum([EnvironmentReward(), FormatMatch(".*")]).score_batch(groups, trees)
    dropped = [[not r.applies for r in g.completions] for g in groups]
    assert any(map(any, dropped))
    assert [r.outcome.isnan().tolist() for r in rewards] == dropped


def test_forks_of_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="Put it inside"):
        ForkingSampler(EnvironmentSampler(Echo()))


def test_members_need_one_task(policy: Policy) -> None:
    class Different(Echo):
        counter = 0

        def reset(self, columns: Any) -> str:
            Different.counter += 1
            return str(Different.counter)

    with pytest.raises(ValueError, match="told completions of prompt '0' different things: '1' and '2'"):
        drawn(policy, Different())


def test_around_a_forking_sampler_is_refused_by_nothing(policy: Policy) -> None:
    """Forks of first turns: later turns are drawn by themselves."""
    groups = drawn(policy, Echo(), sampler=ForkingSampler(share=0.5))
    assert all(len(g) == 4 for g in groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs an environment, or tools"),
        ({"environment": Echo(), "max_turns": 0}, "max_turns is 0; it must be at least 1"),
        ({"environment": Echo(), "tools": ["tests.environments.partners.multiply"]}, "offers its own"),
        (
            {"tools": ["tests.environments.partners.multiply"], "tool_format": "xml"},
            "possible are auto, transformers .*, hermes",
        ),
        ({"tools": ["tests.environments.partners.divide"]}, "has no 'divide'"),
        ({"tools": ["torch.sqrt"]}, "cannot be described"),
        ({"environment": "pandas.Series"}, "no method reset"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EnvironmentSampler(**options)


class AlwaysFails(Echo):
    """Fails wherever ``where`` says, until it is mended."""

    broken = True

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def respond(self, turns: Any) -> Any:
        if self.where == "respond" and self.broken:
            raise ConnectionError("the server is down")
        return super().respond(turns)

    def reward(self) -> Any:
        if self.where == "reward" and self.broken:
            raise ConnectionError("the server is down")
        return super().reward()


@pytest.mark.parametrize("where", ["respond", "reward"])
@pytest.mark.parametrize("on_error", [pytest.param("message", marks=pytest.mark.long), "drop"])
def test_an_environment_that_always_fails_ends_the_run(
    policy: Policy, where: str, on_error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = EnvironmentSampler(AlwaysFails(where), on_error=on_error, max_errors_in_a_row=3)
    made.setup(source(policy))

    def sample() -> None:
        made.sample(prompts()[:1], 4, sampling=SAMPLING, random_key=RANDOM_KEY)

    sample()
    sample()
    with monkeypatch.context() as patch:
        patch.setattr(AlwaysFails, "broken", False)
        sample()  # one that works begins the count anew
    sample()
    sample()
    with pytest.raises(
        UserError,
        match=rf"in 3 rollouts in a row \(max_errors_in_a_row\).*AlwaysFails\.{where} failed.*the server is down",
    ):
        sample()


def test_the_whole_answer_has_a_limit() -> None:
    def answer(found: Any, calls: int = 0) -> Any:
        return check_answer(found, "Env", 100, calls=calls)

    def said(content: str, **more: Any) -> dict[str, Any]:
        return {"role": "tool", "content": content, **more}

    assert answer([said("x" * 100)]) == [said("x" * 100)]
    two = answer([said("x" * 60), said("y" * 90)])
    assert [m["content"] for m in two] == ["x" * 60, "y" * 40 + "… (90 characters, cut off here)"]
    began = time.monotonic()
    for content in ("", "z"):
        many = answer([said(content)] * 2_000_000)
        assert len(many) == 100
        assert many[-1]["content"] == content + "… (1999900 more messages, left out here)"
    assert time.monotonic() - began < 1
    for more in ({"extra": "x" * 101}, {"x" * 101: 1}, {"calls": [{"deep": ["x" * 101]}]}):
        with pytest.raises(ValueError, match=r"characters beside role and content.*100 in all .max_answer_chars"):
            answer([said("", **more)])
    with pytest.raises(ValueError, match="role has 50000 characters"):
        answer([{"role": "x" * 50_000, "content": ""}])
    assert answer([said("x", tool_call_id="call_1")]) == [said("x", tool_call_id="call_1")]


def test_every_tool_call_keeps_its_message() -> None:
    """However much the first one's answer takes of the limit; other messages are left out."""
    found = [
        {"role": "tool", "name": f"tool_{n}", "content": "x" * length} for n, length in enumerate((500, 500, 5, 500))
    ]
    user = {"role": "user", "content": "And?"}
    for length in (500, 82, 70):  # beyond the limit, at it, and with less left than the next one's name takes
        found[0]["content"] = "x" * length
        answer = check_answer([found[0], user, *found[1:]], "Env", 100, calls=3)
        assert answer is not None
        tools = [m for m in answer if m["role"] == "tool"]
        assert [m["name"] for m in tools] == ["tool_0", "tool_1", "tool_2"]
        assert tools[1]["content"] == "… (500 characters, cut off here)"
        assert tools[2]["content"].startswith("xxxxx… (")
        assert (user in answer) == (length == 70)


def test_a_million_rewards_are_refused_unread() -> None:
    with pytest.raises(ValueError, match="gave 1000000 numbers for 2 turns"):
        check_rewards([None] * 1_000_000, "Env", 2)

"""Tools and environments by TRL's conventions: calls, answers, faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.contracts import RandomKey, Sampler
from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.tool_call_formats import find_tool_calls
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.samplers import EnvironmentSampler
from lgrpo_lightning.samplers.text import decode
from lgrpo_lightning.types import Completion, Group, Message, Prompt
from tests.environments import templates
from tests.environments.partners import Counter, Index, multiply, naughty, slowly


def said(text: str) -> Message:
    """A turn as the sampler hands it to an environment."""
    calls = [call.message for call in find_tool_calls(text, "hermes")]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def answers(call: str, *functions: Any, **options: Any) -> list[str]:
    found = ToolEnvironment(functions, **options).respond([said(f"<tool_call>{call}</tool_call>")])
    return [str(m["content"]) for m in found or []]


def test_answers_are_what_tools_return() -> None:
    assert answers('{"name": "multiply", "arguments": {"a": 3, "b": 4}}', multiply) == ["12"]
    assert answers('{"name": "slowly", "arguments": {"a": 3}}', slowly) == ["3"]
    assert answers('{"name": "naughty", "arguments": {"how": "none"}}', naughty) == ["None"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('{"name": "multiply", "arguments": {"a": 3}}', "missing a required argument: 'b'"),
        ('{"name": "multiply", "arguments": {"a": 3, "b": 4, "c": 5}}', "unexpected keyword argument 'c'"),
        ('{"name": "divide", "arguments": {}}', "There is no tool 'divide'; there are multiply, naughty"),
        ('{"name": "multiply", "arguments": [1, 2]}', "malformed: its arguments are no object"),
        ('{"name": "multiply"', "malformed: not JSON"),
        ('{"name": "naughty", "arguments": {"how": "raises"}}', "nothing here"),
        ('{"name": "naughty", "arguments": {"how": "bytes"}}', "2 bytes that are no text"),
        ('{"name": "naughty", "arguments": {"how": "hangs"}}', "no answer within 0.3 seconds"),
        ('{"name": "naughty", "arguments": {"how": "leaves"}}', "{'error': '3'}"),
    ],
)
def test_a_tool_that_fails_is_answered_with_the_error(call: str, said: str) -> None:
    found = answers(call, multiply, naughty, timeout=0.3)
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith("{'error'")


class Scripted(Sampler):
    """Says what it is told to, turn after turn, byte by byte."""

    def __init__(self, turns: Sequence[str]) -> None:
        self.turns = turns

    def setup(self, source: Any) -> None:
        self.source = source
        self.asked: list[list[str]] = []

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        import torch

        self.asked.append([self.source.tokenizer.decode(p.token_ids) for p in prompts])
        groups = []
        for prompt in prompts:
            said = self.turns[len(self.asked) - 1]
            ids = (
                *self.source.tokenizer(said, add_special_tokens=False)["input_ids"],
                self.source.eos_token_ids[0],
            )
            text, ends = decode(self.source.tokenizer, ids)
            made = Completion(
                token_ids=ids, logprobs=torch.full((len(ids),), -1.0), text=text, text_ends=ends,
                finish_reason="stop", mask=torch.ones(len(ids), dtype=torch.bool),
            )  # fmt: skip
            groups.append(Group(prompt=prompt, completions=(made,) * group_size))
        return groups


@pytest.fixture(scope="module")
def model(model_folder: Callable[[str], Path]) -> Policy:
    return Policy(PolicyConfig(path=str(model_folder("llama"))))


def scripted(model: Policy, turns: Sequence[str], **options: Any) -> tuple[EnvironmentSampler, Scripted]:
    """A sampler whose policy says ``turns``."""
    tokenizer = templates.tokenizer()
    inner = Scripted(turns)
    sampler = EnvironmentSampler(sampler=inner, **options)
    source = PolicySource.__new__(PolicySource)  # no vocabulary of a model: texts are told, not drawn
    source.policy, source.tokenizer, source.eos_token_ids = model, tokenizer, (tokenizer.eos_token_id,)
    source._version, source.context_length = (lambda: 0), 4096
    sampler.setup(source)
    return sampler, inner


def asked(columns: Mapping[str, Any] | None = None, uid: str = "x") -> Prompt:
    tokenizer = templates.tokenizer()
    chat = ({"role": "user", "content": "What is 3 times 4?"},)
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Prompt(uid=uid, text=text, token_ids=ids, messages=chat, columns=dict(columns or {}))


def episodes(
    model: Policy, turns: Sequence[str], columns: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Group, Scripted]:
    sampler, inner = scripted(model, turns, **options)
    sampling = Sampling(max_new_tokens=2000)
    groups = sampler.sample([asked(columns)], 2, sampling=sampling, random_key=RandomKey(0, "train", 0))
    sampler.teardown()
    return groups[0], inner


def call(name: str, **arguments: Any) -> str:
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_a_function_as_a_tool(model: Policy) -> None:
    """The conversation is what the template writes of it, and what is trained are the two turns."""
    tool = "tests.environments.partners.multiply"
    said = [call("multiply", a=3, b=4), "It is 12."]
    group, inner = episodes(model, said, tools=[tool])
    rollout = group.completions[0]
    assert "Multiplies two integers." in group.prompt.text
    assert [t.role for t in rollout.turns] == ["assistant", "environment", "assistant"]
    assert rollout.turns[1].messages == ({"role": "tool", "name": "multiply", "content": "12"},)
    between = "\n<|im_start|>tool\n12<|im_end|>\n<|im_start|>assistant\n"
    assert inner.asked[1][0] == f"{group.prompt.text}{said[0]}<|im_end|>{between}"
    assert rollout.finish_reason == "stop"
    assert rollout.metrics == {
        "episodes/turns": 2.0, "episodes/failed": 0.0, "tools/calls": 1.0, "tools/failures": 0.0
    }  # fmt: skip
    own = [i for i, m in zip(rollout.token_ids, rollout.mask.tolist(), strict=True) if m]
    assert templates.tokenizer().decode(own) == f"{said[0]}<|im_end|>{said[1]}<|im_end|>"


def test_an_environment_by_trls_conventions(model: Policy) -> None:
    said = [call("increase", by=2) + call("increase", by=3), call("increase", by=1), "Done."]
    group, _ = episodes(model, said, {"start": 4}, environment="tests.environments.partners.Counter")
    assert "What is 3 times 4? it is 4" in group.prompt.text
    for rollout in group.completions:
        assert [m["content"] for t in rollout.turns[1::2] for m in t.messages] == ["6", "9", "10"]
        assert rollout.rewards == (10.0,)


def test_the_data_choose_among_environments(model: Policy) -> None:
    named = {"counter": "tests.environments.partners.Counter", "other": "tests.environments.partners.Counter"}
    group, _ = episodes(model, ["Done."], {"environment": "counter"}, environment=named)
    assert group.completions[0].rewards == (0.0,)
    with pytest.raises(ValueError, match="'nothing' in its column 'environment'; there are 'counter', 'other'"):
        episodes(model, ["Done."], {"environment": "nothing"}, environment=named)


def test_the_object_lives_as_long_as_the_run() -> None:
    environment = ToolEnvironment(factory=Counter)
    first = environment.object
    environment.reset({"start": 1})
    environment.reset({"start": 2})
    assert environment.object is first
    assert environment.reward() == 2.0


def test_copies_share_the_functions() -> None:
    index = Index()
    first, second = (deepcopy(ToolEnvironment([index.search])) for _ in range(2))
    for environment in (first, second):
        environment.respond([said(call("search", words="x"))])
    assert index.searches == 2


def test_what_a_call_may_still_change_is_not_used_again(model: Policy) -> None:
    class Slow(Counter):
        def wait(self) -> str:
            """Wait."""
            import time

            time.sleep(3)
            return "done"

    environment = ToolEnvironment(factory=Slow, timeout=0.2)
    environment.reset({})
    environment.respond([said(call("wait"))])
    assert environment.lost


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        ("It is 12.", None),
        ("", None),
        ('{"answer": 12}', None),
        ("[3, 4]", None),
        ('{"name": "multiply", "arguments": {"a": 3, "b": 4}}', None),  # without the marks of the template
        (f"<think>{call('multiply', a=3, b=4)}</think>It is 12.", None),
        ("<think>Perhaps <tool_call>", None),
        (f"<think>{call('multiply', a=3, b=4)}</think>{call('multiply', a=3, b=4)}", "12"),
        (f"It is{call('multiply', a=3, b=4)}12.", "12"),
        (f"<tool_call>{call('multiply', a=3, b=4)}", "malformed: not JSON"),
        (call("multiply", a=3, b=4).removesuffix("</tool_call>"), "malformed: </tool_call> is missing"),
        ("I could use <tool_call>, and it is 12.", "malformed: </tool_call> is missing"),
        ('<tool_call>{"name": "multiply", "argum</tool_call>', "malformed: not JSON"),
        ("<tool_call></tool_call>", "malformed: there is nothing in it"),
        (call("divide", a=3, b=4), "There is no tool 'divide'; there are multiply"),
        (
            '<tool_call>{"name": "multiply", "arguments": null}</tool_call>',
            "missing a required argument: 'a'",
        ),
    ],
)
def test_which_turns_end_an_episode(model: Policy, turn: str, answer: str | None) -> None:
    """None: this one does; else what the policy reads before it goes on."""
    group, _ = episodes(model, [turn, "Done."], tools=["tests.environments.partners.multiply"])
    messages = [m for t in group.completions[0].turns for m in t.messages]
    assert [m["role"] for m in messages] == ["assistant", "tool", "assistant"][: 3 if answer else 1]
    if answer is not None:
        assert answer in messages[1]["content"]


class Reading(Environment):
    """An environment with tools whose calls come parsed."""

    tools = (multiply,)

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        calls = turns[-1].get("tool_calls", ())
        return [{"role": "tool", "name": "multiply", "content": str(c)} for c in calls] or None


def test_an_environment_is_given_the_calls(model: Policy) -> None:
    said = [f"{call('multiply', a=3, b=4)}<tool_call>?</tool_call>", "Done."]
    group, _ = episodes(model, said, environment=Reading())
    message, well, ill = (m for t in group.completions[0].turns[:2] for m in t.messages)
    assert message["content"] == said[0]
    assert well["content"] == str({"type": "function", "function": {"name": "multiply", "arguments": {"a": 3, "b": 4}}})
    assert "'problem': 'not JSON" in ill["content"]


def test_a_format_that_is_not_the_templates_is_refused_before_the_first_turn(model: Policy) -> None:
    tool = "tests.environments.partners.multiply"
    with pytest.raises(ValueError, match="EnvironmentSampler: tool_format is 'json', and the chat template writes"):
        scripted(model, [], tools=[tool], tool_format="json")
    with pytest.raises(ValueError, match=r"parser of vLLM, which cannot be imported|vLLM has no tool parser 'none'"):
        scripted(model, [], tools=[tool], tool_format="vllm:none")

"""Environments of verifiers with the embedded model: what is trained is what was sampled, whatever drives the turns."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lgrpo_verifiers import VerifiersPrompts, VerifiersSampler
from lgrpo_verifiers.conversation import Conversation, Rules, opened

from lgrpo_lightning import Prompt, Sampling
from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tool_call_formats import FORMATS, Format
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.policy.end_of_sequence import list_eos_token_ids
from lgrpo_lightning.policy.loading import load_tokenizer
from lgrpo_lightning.rewards import EnvironmentReward
from lgrpo_lightning.samplers import EnvironmentSampler, TransformersSampler
from lgrpo_lightning.testing import check_component, check_prompt_source, toy_tree

HERE = Path(__file__).parent
GUESSING = "lgrpo-verifiers-guessing"
CONFIG = PolicyConfig(path="lgrpo:arithmetic")
RANDOM_KEY = RandomKey(0, "train", 0)
SAMPLING = Sampling(max_new_tokens=40, stop=("=", "\n"))
TEMPLATE = (
    "{% for t in tools or [] %}{{ '\\n' }}{% endfor %}"
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'tool' %}{{ '\\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def policy():
    return Policy(CONFIG)


def source(policy, chat_template=None):
    tokenizer = load_tokenizer(CONFIG)
    tokenizer.chat_template = chat_template
    ends = list_eos_token_ids(CONFIG, tokenizer)
    return PolicySource(policy, tokenizer=tokenizer, eos_token_ids=ends, version=lambda: 3)


def prompts(environment, args=None, *, chat=False, tokenizer=None, **options):
    """The rows of an environment as prompts."""
    tokenizer = tokenizer or load_tokenizer(CONFIG)
    rows = check_prompt_source(VerifiersPrompts(environment, args, chat=chat, **options))
    return [
        Prompt(
            uid=f"train/{n}",
            text=(
                text := row["prompt"]
                if not chat
                else tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            ),
            token_ids=tuple(tokenizer(text)["input_ids"]),
            messages=tuple(row["prompt"]) if chat else None,
            columns={k: v for k, v in row.items() if k != "prompt"},
        )
        for n, row in enumerate(rows)
    ]


def drawn(policy, environment, args=None, *, asked=None, count=4, sampling=SAMPLING, **options):
    sampler = VerifiersSampler(environment, args, **options)
    sampler.setup(source(policy))
    try:
        return sampler.sample(
            asked or prompts(environment, args, select={"limit": 4}),
            count,
            sampling=sampling,
            random_key=RANDOM_KEY,
        )
    finally:
        sampler.teardown()


def ids(groups):
    return [g.sequences for g in groups]


def check_logprobs(policy, groups, temperature=1.0):
    """Sampled tokens have the log-probs of a teacher-forced pass; the environment's have none."""
    masked = 0
    for group in groups:
        scores = policy([group.prompt.token_ids] * len(group), group.sequences, temperature=temperature).logprobs
        for row, rollout in zip(scores, group.completions, strict=True):
            own = rollout.mask
            masked += int((~own).sum())
            assert float(rollout.logprobs[~own].abs().sum()) == 0
            torch.testing.assert_close(row[: len(rollout)][own], rollout.logprobs[own], atol=1e-4, rtol=0)
    return masked


def test_one_turn(policy):
    """The completions are those of the inner sampler alone; rewards and metrics are verifiers'."""
    asked = prompts("vf-sums")
    lines = Sampling(max_new_tokens=40, stop=("\n",))
    groups = drawn(policy, "vf-sums", asked=asked, sampling=lines)
    inner = TransformersSampler()
    inner.setup(source(policy))
    assert ids(groups) == ids(inner.sample(asked, 4, sampling=lines, random_key=RANDOM_KEY))
    assert check_logprobs(policy, groups) == 0
    paid = []
    for group in groups:
        rewards = EnvironmentReward().score(group, toy_tree(group)).outcome.tolist()
        for rollout, reward in zip(group.completions, rewards, strict=True):
            text = rollout.text.strip()
            right = float(text.rpartition("=")[2] == group.prompt.columns["task"]["answer"])
            assert reward == pytest.approx(right + 0.5 / (1 + len(text)))
            assert rollout.metrics["verifiers/right"] == right
            assert rollout.metrics["verifiers/characters"] == len(text)
            assert rollout.applies
            assert rollout.weight_version == 3
            paid.append(right)
    assert 0 < sum(paid) < len(paid)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_several_turns(policy, temperature):
    """Turns tile the completion; the environment's are masked; log-probs are exact through all of them."""
    sampling = Sampling(max_new_tokens=40, stop=("=", "\n"), temperature=temperature)
    groups = drawn(policy, GUESSING, sampling=sampling)
    assert check_logprobs(policy, groups, temperature) > 10
    for group in groups:
        number = group.prompt.columns["task"]["number"]
        for rollout in group.completions:
            assert [t.start for t in rollout.turns] == [0, *(t.end for t in rollout.turns[:-1])]
            spoken = [t.messages[0]["content"] for t in rollout.turns if t.role == "assistant"]
            right = float(spoken[-1].strip().removesuffix("=") == str(number))
            assert rollout.rewards == (pytest.approx(right - 0.1 * (len(spoken) - 1)),)
            assert rollout.metrics["episodes/turns"] == len(spoken)
            for turn in rollout.turns:
                assert bool((rollout.mask[turn.start : turn.end] == (turn.role == "assistant")).all())
                assert rollout.text_between(turn.start, turn.end) == turn.messages[0]["content"]


def test_nothing_depends_on_the_batch(policy):
    asked = prompts(GUESSING, select={"limit": 4})
    together = ids(drawn(policy, GUESSING, asked=asked))
    assert together == ids(drawn(policy, GUESSING, asked=asked[::-1]))[::-1]
    assert together[2:3] == ids(drawn(policy, GUESSING, asked=asked[2:3]))
    assert [g[:2] for g in together] == ids(drawn(policy, GUESSING, asked=asked, count=2))
    assert together == ids(drawn(policy, GUESSING, asked=asked, workers=3))
    assert together == ids(drawn(policy, GUESSING, asked=asked, sampler=TransformersSampler(max_batch_tokens=1)))


def test_it_is_cut_off_where_there_is_no_end(policy):
    for options in ({"max_turns": 2}, {"sampling": Sampling(max_new_tokens=6, stop=("=", "\n"))}):
        cut = [r for g in drawn(policy, GUESSING, **options) for r in g.completions if r.truncated]
        assert cut
        assert all(r.applies and r.turns[-1].role == "assistant" and len(r.rewards) == 1 for r in cut)


def number(text):
    return [ToolCall(name="c_add", arguments={"a": int(text), "b": 1})]


NUMBERS = Format(opens=r"(?=\d)", closes=r"(?<=\d)(?!\d)", read=number)
"""A number that the policy writes is a call; that is what the embedded model can write."""


def test_tools(policy, monkeypatch):
    """A tool that verifiers serves is called with what the policy wrote; its answer is masked."""
    monkeypatch.setitem(FORMATS, "numbers", NUMBERS)
    at = source(policy, TEMPLATE)
    sampler = VerifiersSampler("vf-tools", tool_format="numbers", max_turns=3)
    sampler.setup(at)
    asked = prompts("vf-tools", chat=True, tokenizer=at.tokenizer)
    groups = sampler.sample(asked, 4, sampling=SAMPLING, random_key=RANDOM_KEY)
    assert ids(groups) == ids(sampler.sample(asked, 4, sampling=SAMPLING, random_key=RANDOM_KEY))
    sampler.teardown()
    assert groups[0].prompt.text == "\n1+2+4="
    assert groups[0].prompt.text != asked[0].text  # with its tools
    assert check_logprobs(policy, groups) > 0
    calls = [r for r in groups[0].completions if len(r.turns) > 1]
    assert calls
    for rollout in calls:
        said, answer = (turn.messages[0] for turn in rollout.turns[:2])
        called = said["tool_calls"][0]["function"]
        assert called["name"] == "c_add"
        total = str(sum(json.loads(called["arguments"]).values()))
        assert (answer["role"], answer["content"]) == ("tool", total)
        assert rollout.text_between(rollout.turns[1].start, rollout.turns[1].end) == f"{total}\n"
        heard = sum(t.role == "environment" for t in rollout.turns)
        assert rollout.rewards[0] >= heard  # the last call may have been answered when the turns were used up


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "nothing of that name"),
        ("reward", "nothing of that name"),
        ("hangs", r"no call and no end within 6 seconds \(timeout\)"),
        ("exits", "SystemExit: 3"),
        ("blocks", r"no call and no end within 6 seconds \(timeout\)"),
        ("never asks", "ran no agent"),
    ],
)
def test_an_environment_that_fails_ends_no_run(policy, how, says):
    """Its episodes are dropped; the others are what they are without it, but where it blocks the loop of all."""
    args = {"taskset": {"how": how}}
    sampler = VerifiersSampler("vf-faulty", args, timeout=6.0 if how in ("hangs", "blocks") else 120.0)
    sampler.setup(source(policy))
    asked = prompts("vf-faulty", args)
    with pytest.warns(UserWarning, match=says):
        groups = sampler.sample(asked, 6, sampling=SAMPLING, random_key=RANDOM_KEY)
    rollouts = [r for g in groups for r in g.completions]
    failed = [r for r in rollouts if not r.applies]
    assert failed
    for rollout in failed:
        assert rollout.metrics["episodes/failed"] == 1.0
        assert not rollout.mask.any()
        assert all(value != value for value in rollout.rewards)
    if how not in ("blocks", "never asks"):
        fine = drawn(policy, "vf-faulty", {"taskset": {"how": "fine"}}, count=6)
        pairs = [
            (a, b) for x, y in zip(groups, fine, strict=True) for a, b in zip(x.completions, y.completions, strict=True)
        ]
        assert any(a.applies for a, _ in pairs)
        assert all(a.token_ids == b.token_ids and a.rewards == b.rewards for a, b in pairs if a.applies)
    sampler.timeout = 2.0
    again = sampler.sample(asked, 1, sampling=SAMPLING, random_key=RandomKey(0, "train", 1))
    assert len(again) == 2  # it still draws
    sampler.teardown()


def test_two_agents_stop_the_run(policy):
    with pytest.raises(ValueError, match="two agents of 'vf-two' ask the policy, 'one' and 'other'"):
        drawn(policy, "vf-two", count=1)


def conversation(policy):
    sampler = VerifiersSampler("vf-sums")
    sampler.setup(source(policy))
    asked = prompts("vf-sums")[0]
    rules = sampler._rules(SAMPLING)
    assert isinstance(rules, Rules)
    made = Conversation(rules=rules, prompt=asked, member=0)
    first = [{"role": "user", "content": asked.text}]
    assert made.asked({"messages": first}) is None
    (turn,) = sampler.sampler.sample([made.ahead], 1, sampling=SAMPLING, random_key=RANDOM_KEY)[0].completions
    answer = made.spoke(turn)
    return made, [*first, answer.body["choices"][0]["message"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: [{"role": "user", "content": "A summary."}], "message 0 is not what was said"),
        (
            lambda said: [*said[:1], {"role": "assistant", "content": "4"}, said[0]],
            "message 1 is not what was said",
        ),
        (lambda said: said, "nothing is new"),
        (lambda said: [*said, {"role": "assistant", "content": "4"}], "that the policy did not take"),
        (lambda said: [*said, {"role": "user", "content": [{"type": "image_url"}]}], "holds image_url"),
    ],
)
def test_a_history_that_is_written_anew_is_refused(policy, change, says):
    made, said = conversation(policy)
    answer = made.asked({"messages": change(said)})
    assert answer.status == 400
    assert says in made.why
    assert not made.completion(frozenset()).mask.any()


def test_an_environment_that_begins_with_other_words():
    tokenizer = load_tokenizer(CONFIG)
    tokenizer.chat_template = TEMPLATE
    said = {"role": "user", "content": "1+1="}
    prompt = Prompt(uid="a", text="1+1=", token_ids=tuple(tokenizer("1+1=")["input_ids"]), messages=(said,))
    template = TurnTemplate(tokenizer=tokenizer, ends=())
    begun = opened(template, prompt, [{**said, "content": "1+2="}], None)
    assert begun.text == "1+2="
    assert begun.token_ids == tuple(tokenizer("1+2=", add_special_tokens=False)["input_ids"])


def test_a_stream_says_the_same(policy):
    """verifiers' own reader of a streamed answer gives the message of the whole one."""
    from lgrpo_verifiers.wire import completion, with_calls
    from verifiers.v1.dialects import ChatDialect

    call = ToolCall(name="f", arguments={"a": 1}).message
    message = with_calls({"role": "assistant", "content": "f", "tool_calls": [call]}, name="x")
    answer = completion(message, model="policy", name="x", cut=False, prompt=3, sampled=4)
    dialect = ChatDialect()
    parser = dialect.stream_parser()
    for event in answer.events.split(b"\n\n"):
        parser.feed(event)
    streamed, whole = parser.finish(), dialect.parse_response(dialect.validate_response(dict(answer.body)))
    assert streamed.message == whole.message
    assert streamed.message.tool_calls[0].arguments == '{"a": 1}'
    assert (streamed.finish_reason, streamed.usage) == (whole.finish_reason, whole.usage)


@pytest.mark.skipif(shutil.which("uv") is None, reason="verifiers' own harnesses are installed by uv")
def test_a_harness_of_verifiers(policy):
    """``null``, a process that streams, gives what ``ChatHarness`` gives."""
    asked = prompts("vf-sums", select={"limit": 1})
    null = {"agent": {"harness": {"id": "null"}}}
    theirs = drawn(policy, "vf-sums", null, asked=asked, count=2, timeout=300.0)
    assert ids(theirs) == ids(drawn(policy, "vf-sums", asked=asked, count=2))
    assert all(r.applies and r.rewards[0] > 0 for r in theirs[0].completions)


def test_prompts():
    rows = VerifiersPrompts("vf-sums", {"taskset": {"first": 4}}, select={"skip": 1, "limit": 2}).rows()
    assert [r["prompt"] for r in rows] == [[{"role": "user", "content": f"{n}+{n - 2}="}] for n in (5, 6)]
    assert [r["task_index"] for r in rows] == [1, 2]
    assert rows[0]["task"]["answer"] == "8"
    assert VerifiersPrompts("vf-tools", chat=False).rows()[0]["prompt"] == "1+2+4="


def test_contracts():
    check_component(VerifiersPrompts("vf-sums", chat=False), {"environment": "vf-sums", "chat": False})
    options = {"environment": "vf-sums", "environment_args": {"taskset": {"first": 2}}, "max_turns": 3}
    check_component(VerifiersSampler(**options), options)


def test_the_example(tmp_path):
    from lgrpo_lightning.cli import main

    example = ["fit", "--config", str(HERE.parent / "example.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    main([*example, "--trainer.max_steps=2", "--data.prompts_per_step=2", "--model.group_size=4"])
    assert (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VerifiersSampler("vf-nowhere"), "environment is 'vf-nowhere'.* not found"),
        (lambda: VerifiersSampler("json"), "verifiers refuses them"),
        (lambda: VerifiersSampler("vf-sums", {"taskset": {"last": 1}}), "last"),
        (lambda: VerifiersSampler("vf-sums", {"harness": {"id": "null"}}), "a harness belongs to a seat"),
        (lambda: VerifiersSampler("vf-sums", timeout=0), "timeout is 0; it must be above 0"),
        (
            lambda: VerifiersSampler("vf-sums", tool_format="xml"),
            "tool_format is 'xml'; possible are auto",
        ),
        (
            lambda: VerifiersSampler(
                "vf-sums", sampler=EnvironmentSampler(tools=["lgrpo_lightning.policy.loading.read_run_seed"])
            ),
            "takes turns with an environment of its own",
        ),
        (lambda: VerifiersPrompts("vf-sums", select={"limit": 0}), "select is {'limit': 0}"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_prompt_that_is_no_task(policy):
    asked = prompts("vf-sums")
    sampler = VerifiersSampler("vf-sums", {"taskset": {"first": 7}})
    sampler.setup(source(policy))
    with pytest.raises(ValueError, match=r"the prompt is task 0 with the key .* Give VerifiersPrompts and"):
        sampler.sample(asked[:1], 1, sampling=SAMPLING, random_key=RANDOM_KEY)
    plain = Prompt(uid="a", text="1", token_ids=(20,))
    with pytest.raises(ValueError, match="Take data from VerifiersPrompts"):
        sampler.sample([plain], 1, sampling=SAMPLING, random_key=RANDOM_KEY)

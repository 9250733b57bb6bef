"""What reads the positions of tokens in the text, with a tokenizer that spells characters in bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.rewards.step_reward_function import find_step_prefix, find_step_text
from lgrpo_lightning.samplers import EnvironmentSampler, ForkingSampler, TransformersSampler
from lgrpo_lightning.samplers.text import decode
from lgrpo_lightning.segmenters import DelimiterSegmenter, SentenceSegmenter, TagSegmenter
from lgrpo_lightning.types import Completion, Group, Message, Prompt
from tests.models import make_model
from tests.samplers.decoders import llama
from tests.samplers.test_transformers import RANDOM_KEY


@pytest.mark.parametrize(
    ("segmenter", "parts", "sizes"),
    [  # a space that falls off begins each; bytes that do not end a character join the token before them
        (DelimiterSegmenter(), ("🎉🎉🎉 12 cd\n", "x=1"), (20, 3)),
        (DelimiterSegmenter(), ("结束了\n", "中文🎉\n", "no"), (1 + 9 + 1 + 2, 1 + 3 + 4 + 1, 1)),
        (DelimiterSegmenter("paragraph"), ("结\n\n", "🎉🎉 a\n\n", "b"), (1 + 3 + 2 + 3, 1 + 4 + 2 + 2, 1)),
        (SentenceSegmenter(), ("🎉 no. ", "了 to. ", "x"), (1 + 4 + 4 + 2, 1 + 4, 1)),
        (TagSegmenter(["b"]), ("结", "<b>🎉</b>", "🎉 x"), (1 + 3, 3 + 4 + 4 + 3, 1 + 2)),
    ],
)
def test_steps(segmenter: StepSegmenter, parts: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    tok = llama("<", ">", "/")
    ids = tok("".join(parts))["input_ids"]
    text, ends = decode(tok, ids)
    made = Completion(
        token_ids=tuple(ids),
        logprobs=torch.zeros(len(ids)),
        text=text,
        text_ends=ends,
        finish_reason="stop",
        mask=torch.ones(len(ids), dtype=torch.bool),
    )
    group = Group(prompt=Prompt(uid="p", text="", token_ids=()), completions=(made,))
    tree = segmenter.segment(group)
    assert [find_step_text(group, step) for step in tree.steps] == list(parts)
    assert [find_step_prefix(group, step) for step in tree.steps] == ["".join(parts[:n]) for n in range(len(parts))]
    assert tree.step_ids[0].bincount().tolist() == list(sizes)


ALLOWED = ("a", "<0x0A>", "<0xC3>", "<0xA9>")
"""What the policy below may write: é in bytes, the newline, and a."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PolicySource:
    tok = llama()
    folder = make_model("llama", tmp_path_factory.mktemp("bytes"), scale=0.1, vocab_size=len(tok))
    tok.save_pretrained(folder)
    policy = Policy(PolicyConfig(path=str(folder)))
    kept = {tok.convert_tokens_to_ids(piece) for piece in ALLOWED}
    holes = tuple(i for i in range(len(tok)) if i not in kept)
    made = PolicySource(policy, tokenizer=tok, eos_token_ids=(1,), version=lambda: 0)
    policy.vocabulary = Vocabulary(total=len(tok), size=len(tok), holes=holes)
    return made


class Nods(Environment):
    """Answers é to every turn."""

    def respond(self, messages: tuple[Message, ...]) -> list[Message] | None:
        return [{"role": "user", "content": "é"}]


def drawn(source: PolicySource, sampler: Any, *stop: str, count: int = 24) -> list[Completion]:
    sampler.setup(source)
    ids = tuple(source.tokenizer("a")["input_ids"])
    prompts = [Prompt(uid="a", text="a", token_ids=ids)]
    sampling = Sampling(max_new_tokens=40, stop=stop)
    return list(sampler.sample(prompts, count, sampling=sampling, random_key=RANDOM_KEY)[0].completions)


def ends_at_once(tok: Any, ids: tuple[int, ...], stop: str) -> bool:
    """Whether the text of the ids contains the stop string, and that of no prefix does."""
    texts = [tok.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    return [stop in text for text in texts] == [False] * (len(ids) - 1) + [True]


@pytest.mark.parametrize("stop", ["é", "éa", "\né"])
@pytest.mark.parametrize("forks", [False, True])
def test_stop_strings_in_bytes(source: PolicySource, stop: str, forks: bool) -> None:
    sampler = ForkingSampler(share=0.75) if forks else TransformersSampler()
    members = drawn(source, sampler, stop, count=64)
    stopped = [r for r in members if stop in r.text]
    assert len(stopped) > 4
    assert {r.finish_reason for r in stopped} == {"stop"}
    assert all(ends_at_once(source.tokenizer, r.token_ids, stop) for r in stopped)


def test_turns_end_at_stop_strings_in_bytes(source: PolicySource) -> None:
    episodes = drawn(source, EnvironmentSampler(Nods(), max_turns=3), "é")
    turns = [(r, t) for r in episodes for t in r.turns if t.role == "assistant" and t.end < len(r)]
    assert len(turns) > 8
    for episode, turn in turns:
        assert ends_at_once(source.tokenizer, episode.token_ids[turn.start : turn.end], "é")


def test_forks_at_lines(source: PolicySource) -> None:
    members = drawn(source, ForkingSampler(cut="line"))
    forked = [r.fork for r in members if r.fork]
    assert len(forked) > 4
    newline = source.tokenizer.convert_tokens_to_ids("<0x0A>")
    assert all(members[f.member].token_ids[f.position - 1] == newline for f in forked)

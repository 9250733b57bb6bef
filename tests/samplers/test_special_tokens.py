"""Special tokens in completions: what rewards and segmenters see of them, and stop strings that are tokens."""

from __future__ import annotations

from typing import Any

import pytest

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.rewards import FormatMatch
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.samplers.stops import Stops
from lgrpo_lightning.samplers.text import decode, list_stripped
from lgrpo_lightning.segmenters import DelimiterSegmenter
from lgrpo_lightning.types import Group, Prompt
from tests.models import make_model, tokenizer

SPECIAL = ("<think>", "</think>", "<|im_end|>")
IDS = (44, 45, 46)
ANSWER = "<think>1+1</think>2"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PolicySource:
    folder = make_model("llama", tmp_path_factory.mktemp("special"), special=SPECIAL, scale=1.0)
    policy = Policy(PolicyConfig(path=str(folder)))
    made = PolicySource(policy, tokenizer=tokenizer(*SPECIAL), eos_token_ids=(1,), version=lambda: 0)
    policy.vocabulary = Vocabulary(total=47, size=47, holes=tuple(range(18, 44)))  # digits, signs, special tokens
    return made


def drawn(source: PolicySource, **options: Any) -> list[Group]:
    sampler = TransformersSampler()
    sampler.setup(source)
    ids = tuple(source.tokenizer("1+1=")["input_ids"])
    prompts = [Prompt(uid="a", text="1+1=", token_ids=ids)]
    sampling = Sampling(max_new_tokens=40, temperature=1.5, **options)
    return sampler.sample(prompts, 150, sampling=sampling, random_key=RandomKey(0, "train", 0))


@pytest.mark.parametrize(
    ("strip", "text"),
    [("end", ANSWER), ("all", "1+12"), ("none", f"{ANSWER}<eos><pad>")],
)
def test_what_is_seen_of_special_tokens(strip: Any, text: str) -> None:
    tok = tokenizer(*SPECIAL)
    ids = [*tok(ANSWER)["input_ids"], tok.eos_token_id, tok.pad_token_id]
    stripped = list_stripped(tok, (tok.eos_token_id,), Sampling(strip_special_tokens=strip))
    found, ends = decode(tok, ids, stripped)
    assert found == text
    assert len(ends) == len(ids)
    assert list(ends) == [len(decode(tok, ids[: i + 1], stripped)[0]) for i in range(len(ids))]


def test_rewards_and_segmenters_see_tags_that_are_special_tokens(source: PolicySource) -> None:
    groups = drawn(source)
    seen = [r for g in groups for r in g.completions if set(r.token_ids) & set(IDS)]
    assert len(seen) > 12
    for rollout in seen:
        text = source.tokenizer.decode([i for i in rollout.token_ids if i > 1])
        assert rollout.text == text
        for i, end in zip(rollout.token_ids, rollout.text_ends, strict=True):
            if i in IDS:
                assert rollout.text[:end].endswith(SPECIAL[IDS.index(i)])
    scores = FormatMatch(r".*(<think>|</think>|<\|im_end\|>).*").score(groups[0], None)  # type: ignore[arg-type]
    assert scores.sum() == len(seen)
    cut = DelimiterSegmenter(r"</think>").segment(groups[0])
    assert max(len(steps.unique()) for steps in cut.step_ids) > 2


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|im_end|>\n", "5<|im_end|>", "</think>7", "think>"])
@pytest.mark.parametrize("strip", ["end", "all"])
def test_stop_strings_of_special_tokens_stop(source: PolicySource, stop: str, strip: Any) -> None:
    reasons = set()
    for rollout in drawn(source, stop=(stop,), strip_special_tokens=strip)[0].completions:
        visible = source.tokenizer.decode([i for i in rollout.token_ids if i > 1])
        before = source.tokenizer.decode([i for i in rollout.token_ids[:-1] if i > 1])
        assert (rollout.finish_reason == "stop") == (stop in visible or rollout.token_ids[-1] == 1)
        assert stop not in before
        assert strip == "all" or rollout.text == visible
        reasons.add(rollout.token_ids[-1] != 1 and rollout.finish_reason)
    assert "stop" in reasons


def test_stops_as_tokens_and_as_text() -> None:
    tok = tokenizer(*SPECIAL)
    assert Stops.from_strings(tok, ("<|im_end|>", "a"), (1,)).token_ids == (IDS[2],)
    assert Stops.from_strings(tok, ("<|im_end|>\n",), (1,)).written_out
    assert not Stops.from_strings(tok, ("a", "5"), (1,)).written_out  # the a of <pad> is not seen
    assert Stops.from_strings(tok, ("<eos>5",), (1,)).hidden == {0}
    assert Stops.from_strings(tok, (), (1,)) == Stops()


def test_what_may_be_stripped() -> None:
    with pytest.raises(ValueError, match=r"strip_special_tokens is 'some'.*'end', 'all' or 'none'"):
        Sampling(strip_special_tokens="some")  # type: ignore[arg-type]

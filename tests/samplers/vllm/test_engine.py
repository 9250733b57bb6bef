"""The real engine in this process."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers import EnvironmentSampler, ForkingSampler, TransformersSampler
from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from lgrpo_lightning.types import Group
from tests.environments.partners import Echo
from tests.samplers.vllm.engines import (
    SAMPLING,
    TEXTS,
    ChangingPolicy,
    needs_vllm,
    prompts,
    random_key,
    sequences,
    stale_heads,
)

pytestmark = needs_vllm
SMALL = EngineOptions(max_num_seqs=16)
TRUNCATED = [
    Sampling(max_new_tokens=8, top_k=1),
    Sampling(max_new_tokens=16, top_k=4, temperature=1.3),
    Sampling(max_new_tokens=16, top_p=0.8),
    Sampling(max_new_tokens=16, min_p=0.2, temperature=0.8),
]
Engine = tuple[VLLMSampler, ChangingPolicy]


@pytest.fixture(scope="module", params=["llama_tied", "qwen2_tied"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    policy = ChangingPolicy(request.param, tmp_path_factory.mktemp(request.param))
    sampler = VLLMSampler(SMALL, check_every=1, entropy_top=-1)
    sampler.setup(policy.source)
    yield sampler, policy
    sampler.teardown()


def synced(engine: Engine) -> Engine:
    engine[0].sync(engine[1].version)
    return engine


def test_three_updates(engine: Engine) -> None:
    sampler, policy = synced(engine)
    for _ in range(3):
        sampler.sync(policy.update())
        greedy = sampler.sample(prompts(), 1, sampling=SAMPLING.greedy, random_key=random_key())
        assert policy.greedy_gap(greedy) < 1e-3
        assert policy.logprob_error(greedy) < 1e-3
        drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(policy.version))
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
        assert {r.weight_version for g in drawn for r in g.completions} == {policy.version}


def test_weights_are_copied(engine: Engine) -> None:
    """An update without a sync changes nothing in the engine."""
    sampler, policy = synced(engine)
    before = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
    policy.update()
    again = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
    assert sequences(again) == sequences(before)
    sampler.sync(policy.version)
    assert sequences(sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())) != sequences(before)


def test_same_stream_same_completions_in_any_batch(engine: Engine) -> None:
    sampler, _ = synced(engine)
    together = sequences(sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key()))
    backwards = sampler.sample(prompts()[::-1], 4, sampling=SAMPLING, random_key=random_key())
    alone = sampler.sample(prompts()[2:3], 4, sampling=SAMPLING, random_key=random_key())
    assert sequences(backwards)[::-1] == together
    assert sequences(alone)[0] == together[2]
    assert len({tuple(ids) for ids in together[0]}) > 1
    assert sequences(sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(1))) != together


def test_text_stop_strings_and_ends_of_sequence(engine: Engine) -> None:
    sampler, policy = synced(engine)
    policy.source.eos_token_ids = (1, 13)
    sampling = Sampling(max_new_tokens=30, temperature=2.0, stop=("a", "55"))
    drawn = sampler.sample(prompts(), 16, sampling=sampling, random_key=random_key())
    policy.source.eos_token_ids = (1,)
    reasons = set()
    for rollout in (r for g in drawn for r in g.completions):
        ended = rollout.token_ids[-1] in (1, 13) or any(s in rollout.text for s in sampling.stop)
        assert (rollout.finish_reason == "stop") == ended
        assert not set(rollout.token_ids[:-1]) & {1, 13}
        assert len(rollout.text_ends) == len(rollout.token_ids)
        assert rollout.text_ends[-1] == len(rollout.text)
        if len(rollout) > 1:
            assert not any(s in rollout.text[: rollout.text_ends[-2]] for s in sampling.stop)
        reasons.add(rollout.finish_reason)
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("sampling", TRUNCATED)
def test_truncation_is_that_of_the_other_sampler(engine: Engine, sampling: Sampling) -> None:
    from lgrpo_lightning.samplers.vllm.check import compute_policy_logprobs

    sampler, policy = synced(engine)
    drawn = sampler.sample(prompts(), 4, sampling=sampling, random_key=random_key())
    with policy.policy.generation_model() as model:
        for group in drawn:
            for rollout in group.completions:
                expected = compute_policy_logprobs(model, group.prompt.token_ids, rollout.token_ids, sampling)
                torch.testing.assert_close(rollout.logprobs, expected, atol=1e-3, rtol=0)


def test_frequencies_are_those_of_the_policy(engine: Engine) -> None:
    sampler, policy = synced(engine)
    sampling = Sampling(max_new_tokens=1, temperature=1.5)
    group = sampler.sample(prompts(["1+1="]), 2000, sampling=sampling, random_key=random_key())[0]
    expected = (policy.logits(group, 0)[0] / 1.5).softmax(-1)
    seen = torch.bincount(torch.tensor([s[0] for s in group.sequences]), minlength=len(expected)) / 2000
    assert (seen - expected).abs().max() < 0.04


def test_training_does_not_notice(engine: Engine) -> None:
    sampler, policy = synced(engine)
    set_threads = torch.set_num_threads
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    sampler.sync(policy.update())
    sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
    assert torch.equal(torch.rand(3), expected)
    assert torch.set_num_threads is set_threads
    assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"
    with torch.enable_grad():
        loss = policy.policy([(4, 5)], [(6, 7)]).logprobs.sum()
        loss.backward()
    assert all(p.grad is not None for p in policy.policy.parameters())
    policy.policy.zero_grad()


def test_sleeping_may_be_called(engine: Engine) -> None:
    sampler, _ = synced(engine)
    sampler.sleep_level = 2
    before = sequences(sampler.sample(prompts(), 1, sampling=SAMPLING.greedy, random_key=random_key()))
    sampler.release()
    assert sampler.asleep
    assert sequences(sampler.sample(prompts(), 1, sampling=SAMPLING.greedy, random_key=random_key())) == before
    assert not sampler.asleep
    sampler.sleep_level = 0


def test_a_sync_without_a_cache_reset_is_caught(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, policy = synced(engine)
    sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())  # a check, which fills the cache
    transport: Any = sampler.transport
    monkeypatch.setattr(transport, "_reset_prefix_cache", lambda: None)
    sampler.sync(policy.update())
    with pytest.raises(VLLMError, match="does not sample from the policy's weights"):
        sampler.sample(prompts(["a"]), 1, sampling=SAMPLING, random_key=random_key())
    monkeypatch.undo()
    sampler.sync(policy.update())
    sampler.sample(prompts(["a"]), 1, sampling=SAMPLING, random_key=random_key())


def test_a_stale_head_is_caught(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, policy = synced(engine)
    monkeypatch.setattr("lgrpo_lightning.samplers.vllm.worker.refresh_heads", stale_heads)
    sampler.sync(policy.update())
    with pytest.raises(VLLMError, match="output head"):
        sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())
    monkeypatch.undo()
    sampler.sync(policy.update())  # refreshing mends them
    sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())


def test_greedy_equals_the_other_sampler(engine: Engine) -> None:
    sampler, policy = synced(engine)
    other = TransformersSampler()
    other.setup(policy.source)
    pair = [
        s.sample(prompts(TEXTS), 1, sampling=SAMPLING.greedy, random_key=random_key())[1].sequences
        for s in (sampler, other)
    ]
    assert pair[0] == pair[1]


def test_forks(engine: Engine) -> None:
    """A part of each group goes on from the middle of a member; log-probs are the policy's, the draws repeat."""
    sampler, policy = synced(engine)
    forking = ForkingSampler(sampler, share=0.5)
    forking.source = policy.source
    plain = sampler.sample(prompts(), 6, sampling=SAMPLING, random_key=random_key())
    groups = forking.sample(prompts(), 6, sampling=SAMPLING, random_key=random_key())
    assert [g[:3] for g in sequences(groups)] == [g[:3] for g in sequences(plain)]
    for group in groups:
        assert [r.fork is None for r in group.completions] == [True] * 3 + [False] * 3
        for rollout in group.completions[3:]:
            assert rollout.fork is not None
            source, at = group.completions[rollout.fork.member], rollout.fork.position
            assert rollout.token_ids[:at] == source.token_ids[:at]
    assert policy.logprob_error(groups, SAMPLING.temperature) < 1e-3
    assert sequences(forking.sample(prompts(), 6, sampling=SAMPLING, random_key=random_key())) == sequences(groups)


@pytest.mark.parametrize("sampling", [SAMPLING, *TRUNCATED])
def test_entropies(engine: Engine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all tokens exact, of a few at most that; the same tokens are drawn either way."""
    sampler, policy = synced(engine)
    exact, few, none = (
        (monkeypatch.setattr(sampler, "entropy_top", top), drawn(sampler, sampling))[1] for top in (-1, 5, 0)
    )
    assert sequences(exact) == sequences(few) == sequences(none)
    for group, other, plain in zip(exact, few, none, strict=True):
        for member, rollout in enumerate(group.completions):
            expected = policy.entropies(group, member, sampling)
            torch.testing.assert_close(rollout.entropies, expected, atol=2e-3, rtol=0)
            less = other.completions[member].entropies
            assert less is not None
            assert bool((less <= expected + 2e-3).all())
            assert plain.completions[member].entropies is None


def drawn(sampler: VLLMSampler, sampling: Sampling) -> list[Group]:
    return sampler.sample(prompts(), 3, sampling=sampling, random_key=random_key())


def test_turns(engine: Engine) -> None:
    """Episodes: each turn is drawn from the policy after all that came before, and within the episode's budget."""
    sampler, policy = synced(engine)
    taking = EnvironmentSampler(Echo(turns=2), sampler=sampler)
    taking.setup(policy.source)
    groups = taking.sample(prompts(), 3, sampling=Sampling(max_new_tokens=24, stop=("7",)), random_key=random_key())
    rollouts = [r for g in groups for r in g.completions]
    assert any(len(r.turns) > 2 for r in rollouts)
    for group in groups:
        for member, rollout in enumerate(group.completions):
            expected = policy.logits(group, member).log_softmax(-1)
            chosen = expected.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
            own = rollout.mask
            torch.testing.assert_close(chosen[own], rollout.logprobs[own], atol=1e-3, rtol=0)
    again = taking.sample(prompts(), 3, sampling=Sampling(max_new_tokens=24, stop=("7",)), random_key=random_key())
    assert sequences(again) == sequences(groups)

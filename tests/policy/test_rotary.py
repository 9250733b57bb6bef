"""Log-probs do not depend on which rows share a pass, where frequencies follow the longest one."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.choice import COUNTS
from lgrpo_lightning.policy.export import export
from lgrpo_lightning.policy.multimodal import choose_auto_class
from lgrpo_lightning.policy.source import PolicySource
from lgrpo_lightning.policy.training_noise import set_training_noise
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.types import Prompt, pad
from tests.architectures.tiny import tiny
from tests.models import far_from_uniform, tokenizer
from tests.runs import fit, rollouts, train_metrics

SHORT, LONG = 16, 64
"""Tokens up to which longrope takes its short factors; most positions of the model."""
KINDS = ("longrope", "dynamic")
QUICK = [("phi3", "longrope"), ("phimoe", "longrope"), ("llama", "dynamic"), ("llama", "longrope")]


def rope_of(kind: str, plain: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Rotary parameters of ``kind`` that differ much between short and long sequences."""
    more: dict[str, Any] = {"rope_type": kind, "factor": 4.0}
    if kind == "longrope":
        more |= {
            "original_max_position_embeddings": SHORT,
            "short_factor": [1.0] * pairs,
            "long_factor": [1.0 + 3 * i / pairs for i in range(1, pairs + 1)],
            "short_mscale": 1.0,
            "long_mscale": 1.3,
        }
    return plain | more


def write(model_type: str, kind: str, folder: Path) -> Path:
    """A tiny model of ``model_type`` whose rotary embeddings are of ``kind``."""
    config = tiny(CONFIG_MAPPING[model_type])
    set_training_noise(config, 0.0)
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    if not rope or "rope_type" not in rope:
        pytest.skip("no rotary embeddings of one kind")
    torch.manual_seed(0)
    plain = choose_auto_class(config).from_config(deepcopy(config))
    pairs = {b.numel() for n, b in plain.named_buffers() if n.endswith("inv_freq") and "vis" not in n}
    if len(pairs) != 1:
        pytest.skip("no rotary embeddings of one kind")
    text.max_position_embeddings = LONG
    text.rope_parameters = rope_of(kind, rope, pairs.pop())
    if hasattr(text, "original_max_position_embeddings"):  # Phi's
        text.original_max_position_embeddings = SHORT
    try:
        config.validate_rope() if hasattr(config, "validate_rope") else None
        model = choose_auto_class(config).from_config(config)
    except (ValueError, KeyError) as error:
        pytest.skip(f"refused by transformers: {error}")
    far_from_uniform(model, 3)
    model.float().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def prompts_of(*lengths: int) -> list[Prompt]:
    rows = [tuple(5 + (7 * i + n) % 50 for i in range(n)) for n in lengths]
    return [Prompt(uid=str(i), text="", token_ids=row) for i, row in enumerate(rows)]


def check(policy: Policy, lengths: tuple[int, ...], new: int) -> None:
    """Sampled in one batch, scored in one pass, in every layout, and row by row: the same log-probs."""
    source = PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1, 4, 9), version=lambda: 0)
    sampler = TransformersSampler()
    sampler.setup(source)
    given = {"sampling": Sampling(max_new_tokens=new), "random_key": RandomKey(0, "train", 0)}
    together = sampler.sample(prompts_of(*lengths), 2, **given)  # type: ignore[arg-type]
    drawn = [(g.prompt.token_ids, r) for g in together for r in g.completions]
    prompts, completions = [p for p, _ in drawn], [r.token_ids for _, r in drawn]
    policy.choose_layout(prompts, completions)
    sampled = pad([r.logprobs for _, r in drawn], max(map(len, completions)))
    verify(policy, prompts, completions, sampled=sampled, beside=(prompts, completions))  # as a run begins
    with torch.no_grad():
        layouts = [name for name in COUNTS if name not in policy.unsupported]
        scored = {name: policy(prompts, completions, layout=name).logprobs for name in layouts}
    for i, (prompt, rollout) in enumerate(drawn):
        with torch.no_grad():
            own = policy([prompt], [rollout.token_ids], layout="padded").logprobs[0]
        torch.testing.assert_close(rollout.logprobs, own, atol=1e-4, rtol=0)
        for name, found in scored.items():
            torch.testing.assert_close(found[i, : len(own)], own, atol=1e-4, rtol=0, msg=name)
    for prompt, group in zip(prompts_of(*lengths), together, strict=True):  # alone, the same tokens
        (alone,) = sampler.sample([prompt], 2, **given)  # type: ignore[arg-type]
        assert [r.token_ids for r in alone.completions] == [r.token_ids for r in group.completions]


@pytest.mark.parametrize(("model_type", "kind"), QUICK)
def test_rows_of_mixed_length(model_type: str, kind: str, tmp_path: Path) -> None:
    policy = Policy(PolicyConfig(path=str(write(model_type, kind, tmp_path))))
    check(policy, (4, 12, 30), new=20)  # some stay below the bound, some cross it, some begin above


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_rows_of_mixed_length_of_every_family(model_type: str, kind: str, tmp_path: Path) -> None:
    try:
        policy = Policy(PolicyConfig(path=str(write(model_type, kind, tmp_path))))
        check(policy, (4, 12, 30), new=20)
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        pytest.skip(f"not made, or refused: {type(error).__name__}: {error}")


def test_short_runs_have_the_models_own_numbers(tmp_path: Path) -> None:
    """And so have long rows of long runs."""
    from transformers import AutoModelForCausalLM

    folder = str(write("phi3", "longrope", tmp_path))
    short, long = (
        Policy(PolicyConfig(path=folder), longest=SHORT),
        Policy(PolicyConfig(path=folder), longest=40),
    )
    own = AutoModelForCausalLM.from_pretrained(folder).eval()
    for policy, (prompt, *_) in ((short, prompts_of(10)), (long, prompts_of(30))):
        expected = own(torch.tensor([prompt.token_ids])).logits[0, 3:-1].log_softmax(-1)
        ids = prompt.token_ids
        with torch.no_grad():
            found = policy([ids[:4]], [ids[4:]]).logprobs[0]
        chosen = expected.gather(-1, torch.tensor([ids[4:]]).T)[:, 0]
        torch.testing.assert_close(found, chosen, atol=1e-5, rtol=0)


def test_rows_beyond_the_bound_are_refused(tmp_path: Path) -> None:
    phi = Policy(PolicyConfig(path=str(write("phi3", "longrope", tmp_path / "a"))), longest=SHORT)
    llama = Policy(PolicyConfig(path=str(write("llama", "dynamic", tmp_path / "b"))))
    assert (phi.context_length, llama.context_length) == (SHORT, LONG)
    with pytest.raises(ValueError, match="phi3: a prompt and its completion have up to 24 tokens, and beyond 16"):
        check(phi, (4,), new=20)
    with pytest.raises(ValueError, match="up to 65 tokens, and beyond 64"):
        llama([[5] * 40], [[5] * 25])


def test_what_is_exported_has_its_own_factors(tmp_path: Path) -> None:
    folder = write("phi3", "longrope", tmp_path / "model")
    policy = Policy(PolicyConfig(path=str(folder)))
    export(policy, tokenizer(), tmp_path / "out")
    was, now = (AutoConfig.from_pretrained(f).rope_parameters for f in (folder, tmp_path / "out"))
    assert now == was
    assert policy.model.config.rope_parameters["short_factor"] == was["long_factor"]  # as it goes on


def test_a_run_that_crosses_the_bound(tmp_path: Path) -> None:
    """What is sampled on both sides of it is what is scored, and the ratio before the first update is 1."""
    folder = write("phi3", "longrope", tmp_path / "model")
    root = fit(
        tmp_path / "run",
        model__policy__path=folder,
        trainer__max_steps=1,
        trainer__val_check_interval=None,
        trainer__limit_val_batches=0,
    )
    row, lengths = train_metrics(root).iloc[0], rollouts(root)["length"]
    assert row["sampling/sampling_logp_difference/max"] < 1e-4
    assert lengths.min() < SHORT < lengths.max()


def test_verify_looks_at_the_shortest_and_the_longest_row(tmp_path: Path) -> None:
    policy, rows = (
        Policy(PolicyConfig(path=str(write("llama", "dynamic", tmp_path)))),
        ([[5, 6], [8] * 9],) * 2,
    )
    verify(policy, [[5, 6, 7]], [[9, 9]], beside=rows)
    policy.verified.clear()
    policy.model.model.layers[0].register_forward_hook(lambda m, _, out: out * (1 + 0.1 * out.shape[1]))
    with pytest.raises(ValueError, match="log-probs of a row of 4 tokens differ by up to"):
        verify(policy, [[5, 6, 7]], [[9, 9]], beside=rows)

"""The policy with more context as its own teacher."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lgrpo_lightning.estimators import Distillation
from lgrpo_lightning.losses import Reinforce
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource, make_reference
from lgrpo_lightning.policy.config import Lora
from lgrpo_lightning.policy.loading import load_tokenizer
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.testing import check_component, check_reward_model, toy_tree
from lgrpo_lightning.types import Completion, Group, Prompt, TrainBatch
from tests.data.test_encoding import encoder
from tests.models import make_model
from tests.reliability.processes import same_run
from tests.rewards.test_teacher_logprobs import COMPLETIONS, naive
from tests.runs import checkpoint, fit, lgrpo, rollouts, train_metrics
from tests.training.test_update import gradients, run

TEMPLATE = "{prompt}\n\n{solution}"
ROWS = [{"prompt": "1+1=", "solution": "two"}, {"prompt": "12+7=", "solution": "10 and 9"}]
SEVERAL = [COMPLETIONS[:3], [[9, 10, 11], [9, 10], [7, 1, 9]]]
LAYOUTS = ["padded", "tree", "prefix", "auto"]


def policy_of(folder: Path, **options: Any) -> Policy:
    return Policy(PolicyConfig(path=str(folder), **options))


@torch.no_grad()
def perturb(*models: torch.nn.Module) -> None:
    """Multiply every trained weight, and make those differ that start at nothing."""
    for model in models:
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.mul_(1.1).add_(0.02)


def make_groups(policy: Policy, prompts: list[Prompt], temperature: float = 0.8) -> list[Group]:
    """The completions ``SEVERAL`` with the policy's own log-probs."""
    groups = []
    for prompt, completions in zip(prompts, SEVERAL, strict=True):
        with torch.no_grad():
            own = policy([prompt.token_ids] * len(completions), completions, temperature=temperature).logprobs
        made = [
            Completion(
                token_ids=tuple(c), logprobs=row[: len(c)], text="x" * len(c), text_ends=tuple(range(1, len(c) + 1)),
                finish_reason="stop", mask=torch.ones(len(c), dtype=torch.bool),
            )
            for c, row in zip(completions, own, strict=True)
        ]  # fmt: skip
        groups.append(Group(prompt=prompt, completions=tuple(made)))
    return groups


def encode(folder: Path, rows: list[dict[str, Any]]) -> list[Prompt]:
    made = replace(encoder(contexts=(TEMPLATE,)), tokenizer=load_tokenizer(PolicyConfig(path=str(folder))))
    return made.encode(rows, name="train", origin="rows")


def set_up(policy: Policy, reference: Any = None, **options: Any) -> TeacherLogprobs:
    source = PolicySource(
        policy, tokenizer=load_tokenizer(policy.config), eos_token_ids=(1,), version=lambda: 0, temperature=0.8,
        reference=reference,
    )  # fmt: skip
    model = TeacherLogprobs(**({"context": "solution"} | options))
    model.setup(source)
    return model


def score(model: TeacherLogprobs, groups: list[Group]) -> list[Tensor]:
    """The teacher's log-probs of every completion."""
    rewards = model.score_batch(groups, [toy_tree(g) for g in groups])
    return [
        row[: len(c)] + c.logprobs
        for r, g in zip(rewards, groups, strict=True)
        for row, c in zip(r.tokens, g.completions, strict=True)  # type: ignore[arg-type]
    ]


def plain(folder: Path, prompts: list[Prompt]) -> list[list[float]]:
    """Log-probs by transformers' model, token by token, after each prompt with its context."""
    return [
        naive(folder, p.contexts[TEMPLATE], c, 0.8)
        for p, several in zip(prompts, SEVERAL, strict=True)
        for c in several
    ]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_a_plain_pass_over_the_prompt_with_its_context(
    architecture: str, layout: str, model_folder: Callable[..., Path]
) -> None:
    folder = model_folder(architecture)
    policy, prompts = policy_of(folder, layout=layout, micro_batch_tokens=64), encode(folder, ROWS)
    groups = make_groups(policy, prompts)
    before = policy.choice, dict(policy.failed)
    for row, expected in zip(score(set_up(policy), groups), plain(folder, prompts), strict=True):
        assert row.tolist() == pytest.approx(expected, abs=1e-5)
    assert (policy.choice, policy.failed) == before
    assert "padded" not in policy.verified  # the update still compares it with the sampler
    assert policy.model.training


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_the_reference_is_the_model_before_training(lora: Lora | None, model_folder: Callable[..., Path]) -> None:
    folder = model_folder("llama")
    policy, prompts = policy_of(folder, lora=lora), encode(folder, ROWS)
    reference = make_reference(policy)
    perturb(policy)
    groups, expected = make_groups(policy, prompts), plain(folder, prompts)
    for row, own in zip(score(set_up(policy, reference, weights="reference"), groups), expected, strict=True):
        assert row.tolist() == pytest.approx(own, abs=1e-5)
    assert (torch.cat(score(set_up(policy, reference), groups)) - torch.tensor([*chain(*expected)])).abs().max() > 0.1


def test_a_layout_that_is_wrong_for_the_model_is_not_used(
    model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("llama")
    policy, prompts = policy_of(folder), encode(folder, ROWS)
    groups = make_groups(policy, prompts)
    right, used = Policy.score, []

    def spoilt(self: Policy, *rows: Any, layout: Any = None, **options: Any) -> Any:
        scores = right(self, *rows, layout=layout, **options)
        used.append(name := layout or self.layout)
        return scores if name == "padded" else replace(scores, logprobs=scores.logprobs + 1)

    monkeypatch.setattr(Policy, "score", spoilt)
    with pytest.warns(UserWarning, match="This run takes another layout|this run takes another layout"):
        found = score(set_up(policy), groups)
    assert {"padded", "prefix"} <= {*used}
    assert torch.cat(found).tolist() == pytest.approx([*chain(*plain(folder, prompts))], abs=1e-5)


@contextmanager
def trl_trainer(folder: Path, out: Path, rows: list[dict[str, Any]], kind: str) -> Iterator[Any]:
    """TRL's trainer itself, on the same model and prompts."""
    sdft = pytest.importorskip("trl.experimental.sdft")
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": r["prompt"], "privileged_context": r["solution"]} for r in rows])
    args = sdft.SDFTConfig(
        output_dir=str(out), distillation_mode="sampled_token", distillation_alpha=1.0, distillation_is_clip=None,
        teacher_model_kind=kind, temperature=0.8, num_generations=3, per_device_train_batch_size=6, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    yield sdft.SDFTTrainer(model=str(folder), args=args, train_dataset=data)


CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.mark.parametrize("kind", ["live", "base"])
@pytest.mark.parametrize("chat", [False, True])
def test_the_update_is_that_of_trls_sdft_trainer(chat: bool, kind: str, tmp_path: Path) -> None:
    """Prompts of the teacher, loss and gradient; sampled tokens, one mean per completion."""
    folder = make_model("llama", tmp_path / "model", chat_template=CHAT)
    rows: Any = [r | {"prompt": [{"role": "user", "content": r["prompt"]}]} for r in ROWS] if chat else ROWS
    policy, prompts = policy_of(folder), encode(folder, rows)
    reference = make_reference(policy) if kind == "base" else None
    with trl_trainer(folder, tmp_path, rows, kind) as theirs:
        perturb(policy, theirs.model)
        model = set_up(policy, reference, weights="reference" if reference else "policy")
        groups = make_groups(policy, prompts)
        rewards = model.score_batch(groups, trees := [toy_tree(g) for g in groups])
        credits = Distillation().estimate_batch(rewards, trees, reduce=lambda x: x)
        means = run(policy, TrainBatch.from_groups(groups, credits), loss=Reinforce(normalizer="sequence"))
        completions = [torch.tensor(c) for several in SEVERAL for c in several]
        ids, mask = (
            torch.nn.utils.rnn.pad_sequence(value, batch_first=True)
            for value in (completions, [torch.ones_like(c) for c in completions])
        )
        each, own_prompts = ([x for x in given for _ in range(3)] for given in (rows, prompts))
        told = theirs.teacher_context_builder.build(
            [r["prompt"] for r in each], [r["solution"] for r in each], ids, mask
        )
        own = theirs._tokenize_prompts([r["prompt"] for r in each])
        width = max(map(len, own))
        inputs = told | {
            "prompt_ids": torch.tensor([[0] * (width - len(o)) + o for o in own]),
            "prompt_mask": torch.tensor([[0] * (width - len(o)) + [1] * len(o) for o in own]),
            "completion_ids": ids,
            "completion_mask": mask,
        }
        lengths = told["teacher_attention_mask"][:, : -ids.shape[1]].sum(-1).tolist()
        for row, length, prompt in zip(told["teacher_input_ids"], lengths, own_prompts, strict=True):
            read = row[: -ids.shape[1]].tolist()
            assert read[len(read) - length :] == [*prompt.contexts[TEMPLATE]]
        logits = theirs._compute_teacher_student_logits(theirs.model, theirs.teacher_model, inputs)
        loss = theirs._compute_self_distillation_loss(theirs.model, inputs, logits)
        theirs.model.zero_grad()
        loss.backward()
        assert means.values()["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
        for ours, other in zip(gradients(policy), [p.grad for p in theirs.model.parameters()], strict=True):
            torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


def test_keeps_the_contract_and_says_what_it_reads(
    model_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = model_folder("llama")
    model, policy = set_up(policy_of(folder)), policy_of(folder)
    with caplog.at_level("INFO"):
        check_reward_model(model, make_groups(policy, encode(folder, ROWS))[0])
    assert caplog.text.count(r"the teacher reads '1+1=\n\ntwo'") == 1
    check_component(TeacherLogprobs(context="solution"), {"context": "solution"})
    unencoded = replace(make_groups(policy, encode(folder, ROWS))[0], prompt=Prompt(uid="a", text="", token_ids=(3,)))
    with pytest.raises(ValueError, match=r"Prompt a has no token ids with the context"):
        model.score_batch([unencoded], [toy_tree(unencoded)])
    with pytest.raises(ValueError, match="call setup first"):
        TeacherLogprobs(context="solution").score_batch([], [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither a path nor a context"),
        ({"context": "a", "weights": "other"}, "'policy' or 'reference'"),
        ({"path": "lgrpo:arithmetic", "weights": "reference"}, "left out with a path"),
        ({"context": "a", "dtype": "bfloat16"}, "of a model that path names"),
        ({"context": "{a}"}, "TeacherLogprobs.context is '{a}'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherLogprobs(**options)


SELF: dict[str, object] = {
    "model__reward_model": json.dumps([
        {"class_path": "TeacherLogprobs", "init_args": {"context": "{solution}{prompt}"}}, "ExactMatch",
    ]),
    "model__advantage_estimator": "Distillation",
    "model__optimizer__init_args__lr": 1e-3,
}  # fmt: skip
REFERENCE = SELF | {
    "model__reward_model": str(SELF["model__reward_model"]).replace('"}}', '", "weights": "reference"}}')
}
UPDATED = REFERENCE | {"model__objective__reference_sync_steps": 2}


@pytest.mark.parametrize("options", [SELF, UPDATED], ids=["policy", "reference"])
def test_a_resumed_run_is_the_same_to_the_bit(options: dict[str, object], tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", **options)
    fit(tmp_path / "parts", **(options | {"trainer__max_steps": 2}))
    parts = fit(tmp_path / "parts", **options, ckpt_path="last")
    same_run(whole, parts)
    told = train_metrics(whole)["rewards/TeacherLogprobs/reverse_kl"]
    assert (told > 0.01).all()
    assert ("reference" in checkpoint(whole)["lgrpo"]) == (options is UPDATED)  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("options", [SELF, REFERENCE], ids=["policy", "reference"])
def test_two_processes_equal_one(options: dict[str, object], strategy: str, tmp_path: Path) -> None:
    from tests.runs import lgrpo_arguments
    from tests.several import commands

    more = options | {"data__prompts_per_step": 4, "model__optimizer__init_args__eps": 1e-5}
    one = fit(tmp_path / "one", **more)
    both = {"trainer__devices": 2, "trainer__strategy": strategy}
    commands([lgrpo_arguments("fit", tmp_path / "two", **more, **both)])
    a, b = rollouts(one), rollouts(tmp_path / "two")
    assert list(a["completion"]) == list(b["completion"])
    for name in ("loss", "rewards/TeacherLogprobs/reverse_kl", "grad_norm"):
        left, right = (torch.tensor(train_metrics(r)[name].to_numpy()) for r in (one, tmp_path / "two"))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=name)


def test_what_cannot_be_used_ends_a_run_before_its_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"{n}+1=", "answer": n + 1, "solution": "a" * n} for n in range(1, 9)]

    def said(change: dict[str, Any], **options: object) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(r) for r in [*rows[:2], change, *rows[3:]]))
        flags = SELF | {"data__train": str(path), "data__train__init_args__count": None, **options}
        assert lgrpo("fit", tmp_path / "run", **flags) != 0
        assert not (tmp_path / "run" / "rollouts").exists() or not list((tmp_path / "run" / "rollouts").iterdir())
        return capsys.readouterr().err

    assert "rows.jsonl, row 2 (from 0): the reward 'TeacherLogprobs' needs a column 'solution'" in said({
        "prompt": "1+1=", "answer": 2,
    })  # fmt: skip
    assert "rows.jsonl, row 2 (from 0): TeacherLogprobs reads column 'solution', which is ' '" in said(
        rows[2] | {"solution": " "}
    )
    assert "prompt train/2, with the context '{solution}{prompt}', has 304 tokens; at most 224" in said(
        rows[2] | {"solution": "a" * 300}
    )
    other = json.dumps([{"class_path": "TeacherLogprobs", "init_args": {"path": str(model_folder("llama"))}}])
    assert "whose tokenizer is not the policy's" in said(rows[2], model__reward_model=other)
    no_reader = {"model__reward_model": "ExactMatch", "model__advantage_estimator": "GRPO"}
    assert "nothing reads one" in said(rows[2], **no_reader, model__objective__reference_sync_steps=2)

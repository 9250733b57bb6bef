"""What real users feed a model: chat templates with switches, several ends, pad = eos, paddings, scripts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.loading import load_tokenizer
from tests.models import SMALL, make_model
from tests.runs import checkpoint, fit, lgrpo, rollouts

TEMPLATE = (
    "{% if tools %}tools {% for t in tools %}{{ t['function']['name'] }} {% endfor %}{% endif %}"
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %} no think{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
RUN: dict[str, Any] = {
    "trainer__max_steps": 2,
    "model__optimizer__init_args__lr": 1e-2,
    "model__sampling__max_new_tokens": 12,
    "model__reward_model": json.dumps(
        {"class_path": "RewardFunction", "init_args": {"function": "tests.integration.rewards.even"}}
    ),
}


def edit(path: Path, **entries: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def data(folder: Path, prompts: list[Any]) -> dict[str, Any]:
    """A file of prompts as training set, and no validation."""
    rows = [json.dumps({"prompt": p, "answer": i}, ensure_ascii=False) + "\n" for i, p in enumerate(prompts)]
    (folder / "prompts.jsonl").write_text("".join(rows), encoding="utf-8")
    counts = {f"data__{which}__init_args__count": None for which in ("train", "validation")}
    return {"data__train": folder / "prompts.jsonl", "data__validation": "null", **counts}


def byte_model(folder: Path) -> Path:
    """A random model of bytes: every text can be written, and most completions are no valid text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<pad>", "<eos>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL | {"vocab_size": 2 + len(alphabet)})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def same_run(a: Path, b: Path) -> None:
    """Equal rollouts and equal weights, to the bit."""
    pd.testing.assert_frame_equal(rollouts(a), rollouts(b), check_exact=True)
    for x, y in zip(*(checkpoint(r)["state_dict"].values() for r in (a, b)), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(x, y)


def test_template_switches_reach_the_template(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    chats: list[Any] = [[{"role": "user", "content": f"{i}+1"}] for i in range(4)]
    run = RUN | data(tmp_path, chats) | {"model__policy__path": folder}
    plain = fit(tmp_path / "plain", **run)
    assert set(rollouts(plain)["prompt"]) <= {f"user {i}+1\nassistant" for i in range(4)}
    switches = json.dumps({"enable_thinking": False, "tools": TOOLS})
    root = fit(tmp_path / "switched", data__chat_template_kwargs=switches, data__system_prompt="sum", **run)
    assert set(rollouts(root)["prompt"]) <= {f"tools add system sum\nuser {i}+1\nassistant no think" for i in range(4)}


def test_every_end_of_sequence_id_ends_a_completion(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "model", scale=1.0)
    edit(folder / "generation_config.json", eos_token_id=[1, 7, 9])
    table = rollouts(fit(tmp_path / "run", model__policy__path=folder, **RUN | {"model__group_size": 16}))
    ends = {1, 7, 9}
    stopped = table[table["finish_reason"] == "stop"]
    assert {ids[-1] for ids in stopped["token_ids"]} == ends
    assert not any(ends & set(ids[:-1]) for ids in table["token_ids"])
    assert not any(ids[-1] in ends for ids in table[table["finish_reason"] == "length"]["token_ids"])


def test_the_end_is_trained_where_it_is_the_pad_token_too(tmp_path: Path) -> None:
    apart = make_model("llama", tmp_path / "apart", scale=1.0)
    same = make_model("llama", tmp_path / "same", scale=1.0)
    edit(same / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(PolicyConfig(path=str(same)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    a, b = (fit(tmp_path / f"run-{f.name}", model__policy__path=f, **RUN) for f in (apart, same))
    same_run(a, b)
    stopped = rollouts(b).query("finish_reason == 'stop'")
    assert len(stopped)
    assert all(ids[-1] == 1 and len(ids) == n for ids, n in zip(stopped["token_ids"], stopped["length"], strict=True))


@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_the_end_has_its_log_prob_and_gradient(layout: Any, model_folder: Callable[[], Path]) -> None:
    config = PolicyConfig(path=str(model_folder()), layout=layout)
    prompts, completions = [(5, 6)] * 3, [(8, 1), (8, 9, 10, 1), (1,)]
    gradients = []
    for pad in (0, 1):
        policy = Policy(config, pad=pad)
        logprobs = policy(prompts, completions).logprobs
        for row, completion in enumerate(completions):
            ids = torch.tensor([[*prompts[row], *completion]])
            logits = policy.model(ids).logits[0, len(prompts[row]) - 1 : -1].log_softmax(-1)
            expected = logits.gather(1, torch.tensor(completion)[:, None])[:, 0]
            torch.testing.assert_close(logprobs[row, : len(completion)], expected, atol=1e-5, rtol=0)
            assert (logprobs[row, len(completion) :] == 0).all()
        policy.zero_grad()
        sum(logprobs[row, len(c) - 1] for row, c in enumerate(completions)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_the_tokenizers_padding_side_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for side in ("left", "right"):
        folder = make_model("llama", tmp_path / side)
        edit(folder / "tokenizer_config.json", padding_side=side)
        prompts = ["1+1=", "1+1+1+1+1=", "2="]
        run = RUN | data(tmp_path, prompts) | {"data__prompts_per_step": 3}
        runs.append(fit(tmp_path / f"run-{side}", model__policy__path=folder, **run))
    same_run(*runs)


def test_any_script(tmp_path: Path) -> None:
    prompts = ["日本語で 1+1=", "naïve café — ½?", "🙂👩‍👩‍👧 = 1", "שלום\tעולם\r\n", "e\u0301 x\u200by"]
    folder = byte_model(tmp_path / "model")
    run = RUN | data(tmp_path, prompts) | {"data__prompts_per_step": 5, "trainer__max_steps": 1}
    table = rollouts(fit(tmp_path / "run", model__policy__path=folder, **run))
    assert set(table["prompt"]) == set(prompts)
    tokenizer = load_tokenizer(PolicyConfig(path=str(folder)))
    for ids, text in zip(table["token_ids"], table["completion"], strict=True):
        assert text == tokenizer.decode(list(ids), skip_special_tokens=True)
    assert table["completion"].str.contains("\ufffd").any()  # bytes that are no text arrive as such


def test_the_longest_prompt_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model("llama", tmp_path / "model")  # a context of 256
    room = 256 - RUN["model__sampling__max_new_tokens"]
    run = RUN | {"model__policy__path": folder, "data__prompts_per_step": 1, "trainer__max_steps": 2}
    root = fit(tmp_path / "fits", **run | data(tmp_path, ["1" * room, "1"]))
    table = rollouts(root)
    assert set(table["prompt"].str.len()) == {room, 1}
    assert (table["length"] <= 12).all()
    assert lgrpo("fit", tmp_path / "long", **run | data(tmp_path, ["1" * (room + 1), "1"])) == 2
    assert f"train/0 has {room + 1} tokens; at most {room} are possible" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 2 prompts left out"):
        dropped = fit(tmp_path / "dropped", data__long_prompts="drop", **run | data(tmp_path, ["1" * 250, "1"]))
    assert set(rollouts(dropped)["prompt"]) == {"1"}

"""Reward functions of TRL's own package, and an async one, in a real fit and unchanged."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import fit, rollouts, train_metrics

WORDS = ["<pad>", "<eos>", "<unk>", "<think>", "</think>", "\\boxed{1}", "\\boxed{2}", *"012+=? "]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

MINE = '''
import asyncio
from trl.rewards import get_soft_overlong_punishment

overlong = get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=4)

async def judged(prompts, completions, solution, **kwargs):
    """Asks a slow judge about every completion at once."""
    async def ask(prompt, completion):
        await asyncio.sleep(0.01)
        return float(len(completion[0]["content"]) + len(prompt[0]["content"]))
    return await asyncio.gather(*[ask(p, c) for p, c in zip(prompts, completions)])
'''


def chatty_model(folder: Path) -> Path:
    """A random model whose tokens are what TRL's rewards look for."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?think>|\\boxed\{\d\}|[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_trls_rewards_and_an_async_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl.rewards")
    pytest.importorskip("math_verify")
    rows = [
        {"prompt": [{"role": "user", "content": f"{a}+{b}=?"}], "solution": f"\\boxed{{{a + b}}}"}
        for a, b in [(0, 1), (1, 0), (1, 1), (0, 2)]
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_trl_rewards.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    functions = [
        "trl.rewards.think_format_reward",
        "trl.rewards.accuracy_reward",
        "my_trl_rewards.overlong",
        "my_trl_rewards.judged",
    ]
    models = [{"class_path": "RewardFunction", "init_args": {"function": f}} for f in functions]
    root = fit(
        tmp_path / "run",
        model__policy__path=chatty_model(tmp_path / "model"),
        model__reward_model=json.dumps(models),
        model__group_size=16,
        model__sampling__max_new_tokens=8,
        data__train="sums.jsonl",
        data__train__init_args__count=None,
        data__prompts_per_step=4,
    )
    table = rollouts(root)
    completions = [[{"role": "assistant", "content": text}] for text in table["completion"]]
    solutions = [json.loads(c)["solution"] for c in table["columns"]] if "columns" in table else table["solution"]
    theirs = {
        "think_format_reward": trl.think_format_reward(completions),
        "accuracy_reward": trl.accuracy_reward(completions, list(solutions)),
    }
    parts = [c for c in table.columns if c.startswith("reward/")]
    assert len(parts) == 4
    for name, expected in theirs.items():
        assert list(table[f"reward/{name}"]) == expected
        assert 0 < sum(expected) < len(expected)
    (overlong,) = [c for c in parts if "verlong" in c]
    ids = [list(i) for i in table["token_ids"]]
    assert list(table[overlong]) == trl.get_soft_overlong_punishment(8, 4)(ids)
    assert list(table["reward/judged"]) == [len(text) + 5.0 for text in table["completion"]]
    assert torch.allclose(torch.tensor(table["reward"]), torch.tensor(table[parts].to_numpy()).sum(1))
    assert train_metrics(root)["rewards/accuracy_reward/mean"].notna().all()

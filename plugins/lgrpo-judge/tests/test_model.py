"""Tiny classifiers with random weights: batched scores equal the classifier's own, one text at a time."""

import pytest
import torch
from lgrpo_judge import ModelReward
from transformers import (
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from lgrpo_lightning.cli import main
from lgrpo_lightning.testing import check_component, check_reward_model, toy_group, toy_tree
from tools.make_arithmetic import CHARACTERS, EOS, PAD, UNKNOWN, character_tokenizer

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
GROUPS = [
    toy_group(["1+2=3", "3", "", "1+2+3+4=10 or 11"], prompt="1+2="),
    toy_group(["7", "a much longer completion than the others"], messages=[{"role": "user", "content": "3+4="}]),
]
GOOD = {"id2label": {0: "bad", 1: "so-so", 2: "good"}, "label2id": {"bad": 0, "so-so": 1, "good": 2}}


def save(folder, kind, *, template=None, **config):
    torch.manual_seed(0)
    tokenizer = character_tokenizer([PAD, EOS, UNKNOWN, *CHARACTERS])
    tokenizer.chat_template = template
    model = kind(kind.config_class(vocab_size=len(tokenizer), **{**SMALL, "max_position_embeddings": 64, **config}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model.eval(), tokenizer


def score(path, groups=GROUPS, **options):
    reward = ModelReward(str(path), device="cpu", **options)
    return reward.score_batch(groups, [toy_tree(group) for group in groups])


@torch.no_grad()
def own(model, tokenizer, texts, column=0, link=lambda logits: logits):
    """The classifier's scores as its card computes them, without padding."""
    inputs = [tokenizer(*text, return_tensors="pt") for text in texts]
    return [float(link(model(**row).logits)[0, column]) for row in inputs]


def texts(separate=False):
    pairs = [("1+2=", c.text) for c in GROUPS[0].completions] + [("3+4=", c.text) for c in GROUPS[1].completions]
    return pairs if separate else [(a + b,) for a, b in pairs]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("pad", [None, 0, 1], ids=["no pad id", "pad id", "pad id is eos"])
def test_decoders(pad, batch_size, tmp_path):
    path, model, tokenizer = save(tmp_path, LlamaForSequenceClassification, num_labels=1, pad_token_id=pad)
    found = [v for r in score(path, batch_size=batch_size) for v in r.outcome.tolist()]
    assert found == pytest.approx(own(model, tokenizer, texts()), abs=1e-5)
    assert len({round(v, 3) for v in found}) == len(found)


@pytest.mark.parametrize("pad", [None, 0, 1], ids=["no pad id", "pad id", "pad id is eos"])
def test_chat_templates(pad, tmp_path):
    """They end with the end of sequence, which may be the padding."""
    path, model, tokenizer = save(
        tmp_path, LlamaForSequenceClassification, template=CHAT, num_labels=1, pad_token_id=pad
    )
    chats = [(f"<user>{a}{EOS}<assistant>{b}{EOS}",) for a, b in texts(separate=True)]
    found = [v for r in score(path) for v in r.outcome.tolist()]
    assert found == pytest.approx(own(model, tokenizer, chats), abs=1e-5)


@pytest.mark.parametrize("separate", [False, True])
def test_encoders_with_labels(separate, tmp_path):
    path, model, tokenizer = save(tmp_path, BertForSequenceClassification, num_labels=3, **GOOD)
    text = "pair" if separate else "plain"
    found = [v for r in score(path, label="good", text=text) for v in r.outcome.tolist()]
    expected = own(model, tokenizer, texts(separate), 2, lambda logits: logits.softmax(-1))
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_is_too_long_is_cut_off_on_the_left(tmp_path):
    path, model, tokenizer = save(tmp_path, LlamaForSequenceClassification, num_labels=1, pad_token_id=0)
    with pytest.warns(UserWarning, match=r"has 9 tokens, and .* reads 8: what is longer is cut off on the left"):
        first, second = score(path, max_length=8)
    expected = own(model, tokenizer, [(text[-8:],) for (text,) in texts()])
    assert [*first.outcome.tolist(), *second.outcome.tolist()] == pytest.approx(expected, abs=1e-5)
    assert first.metrics == {"rewards/ModelReward/truncated": 0.5}


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"architectures": ["DebertaV2PairRM"]}, {}, r"has no score for a single completion: it is no .*compares two"),
        ({}, {"label": "best"}, r"label is 'best', and .* has the labels bad, so-so, good; set label"),
        ({}, {}, "label is None"),
    ],
)
def test_models_that_are_refused(change, options, says, tmp_path):
    path, model, _ = save(tmp_path, LlamaForSequenceClassification, num_labels=3, pad_token_id=0, **GOOD)
    if change:
        model.config.update(change)
        model.config.save_pretrained(path)
    with pytest.raises(ValueError, match=says):
        ModelReward(path, device="cpu", **options).setup(None)


def test_a_language_model_is_no_classifier(tmp_path):
    path, model, _ = save(tmp_path, LlamaForCausalLM, num_labels=1)
    with pytest.raises(ValueError, match=r"is a LlamaForCausalLM, which .* JudgeReward"):
        score(path)
    model.config.update({"architectures": ["LlamaForSequenceClassification"]})
    model.config.save_pretrained(path)
    with pytest.raises(ValueError, match=r"lacks weights of the model: score\.weight\. .* trained as a reward"):
        score(path)


def test_contracts(tmp_path):
    path, *_ = save(tmp_path, LlamaForSequenceClassification, num_labels=1)
    check_reward_model(ModelReward(path, device="cpu"))
    check_component(ModelReward(path, device="cpu"), {"path": path, "device": "cpu"})


@pytest.mark.parametrize("options", [{"text": "both"}, {"max_length": 0}, {"dtype": "int8"}, {"batch_size": 0}])
def test_refusals(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"ModelReward: {name} is "):
        ModelReward("somewhere", **options)


def test_a_run(tmp_path):
    path, *_ = save(tmp_path / "model", LlamaForSequenceClassification, num_labels=1)
    flags = ["--model.policy.path=lgrpo:arithmetic", "--data.train=ArithmeticTasks", "--data.prompts_per_step=2"]
    flags += ["--trainer.max_steps=1", "--model.sampling.max_new_tokens=8", f"--trainer.default_root_dir={tmp_path}"]
    reward = ["--model.reward_model=ModelReward", f"--model.reward_model.path={path}"]
    assert main(["fit", "--trainer.accelerator=cpu", *flags, *reward]) == 0
    assert "rewards/ModelReward/truncated" in (tmp_path / "metrics.csv").read_text()

"""Tiny models of each convention with random weights: batched step scores equal a reference, one text at a time."""

import math

import pytest
import torch
from lgrpo_prm import CONVENTIONS, HuggingFacePRM
from transformers import LlamaConfig, LlamaForTokenClassification, MistralConfig, MistralForCausalLM

from lgrpo_lightning.segmenters import DelimiterSegmenter
from lgrpo_lightning.testing import check_component, check_reward_model, toy_group
from tools.make_arithmetic import CHARACTERS, EOS, PAD, UNKNOWN, character_tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"


def tokenizer(*extra):
    made = character_tokenizer([PAD, EOS, UNKNOWN, *CHARACTERS, "к", "и"], padding_side="right")
    made.add_tokens(list(extra), special_tokens=True)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each convention."""
    torch.manual_seed(0)
    out = {}
    for name, extra in (
        ("math-shepherd", ["ки"]),
        ("qwen2.5-math-prm", ["<extra_0>"]),
        ("token-classification", []),
    ):
        folder, tok = tmp_path_factory.mktemp("prm"), tokenizer(*extra)
        if name == "math-shepherd":
            model = MistralForCausalLM(MistralConfig(vocab_size=len(tok), **SMALL))
        else:
            model = LlamaForTokenClassification(LlamaConfig(vocab_size=len(tok), num_labels=2, **SMALL))
        for parameter in model.parameters():  # far from uniform
            torch.nn.init.normal_(parameter, std=0.3)
        if name == "qwen2.5-math-prm":
            tok.chat_template = CHAT
        model.save_pretrained(folder)
        tok.save_pretrained(folder)
        out[name] = (str(folder), model.eval(), tok)
    return out


GROUP = toy_group(["1+2=3\n3+4=7\n", "1+2=3\n3+4=8\n", "1+2=4\n", ""], prompt="1+2+4=")
TREE = DelimiterSegmenter().segment(GROUP)


def by_hand(name, model, tok, steps):
    """The scores of one completion's steps, straight from the model's card."""
    if name == "math-shepherd":
        text = "1+2+4= " + "\n".join(f"{s} ки" for s in steps)
        ids = torch.tensor([tok(text)["input_ids"]])
        pair = [tok.convert_tokens_to_ids(t) for t in "+-"]
        scores = model(ids).logits[0][:, pair].softmax(-1)[:, 0]
        return scores[ids[0] == tok.convert_tokens_to_ids("ки")].tolist()
    if name == "qwen2.5-math-prm":
        system = "Please reason step by step, and put your final answer within \\boxed{}."
        answer = "".join(s + "<extra_0>" for s in steps)
        text = f"<system>{system}</system><user>1+2+4=</user><assistant>{answer}</assistant>"
        at = tok.convert_tokens_to_ids("<extra_0>")
    else:
        text, at = "1+2+4= " + "".join(s + "\n" for s in steps), tok.convert_tokens_to_ids("\n")
    ids = torch.tensor([tok(text)["input_ids"]])
    return model(ids).logits[0].softmax(-1)[:, 1][ids[0] == at].tolist()


@pytest.mark.parametrize("batch_tokens", [1, 100, 16384])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_step_scores_are_the_references(name, batch_tokens, folders):
    path, model, tok = folders[name]
    prm = HuggingFacePRM(path, convention=name, device="cpu", batch_tokens=batch_tokens)
    (rewards,) = prm.score_batch([GROUP], [TREE])
    with torch.no_grad():
        first = by_hand(name, model, tok, ["1+2=3", "3+4=7"])
        second = by_hand(name, model, tok, ["1+2=3", "3+4=8"])
        third = by_hand(name, model, tok, ["1+2=4"])
    assert [step.members for step in TREE.steps] == [(0, 1), (0,), (1,), (2,)]
    assert rewards.steps.tolist() == pytest.approx([first[0], first[1], second[1], third[0]], abs=1e-5)
    assert len(set(rewards.steps.tolist())) == 4
    assert rewards.outcome.isnan().all()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_several_groups_at_once(name, folders):
    prm = HuggingFacePRM(folders[name][0], convention=name, device="cpu")
    other = toy_group(["9\n", "8\n8\n8\n"], prompt="a much longer prompt than the other one")
    trees = [TREE, DelimiterSegmenter().segment(other)]
    together = prm.score_batch([GROUP, other], trees)
    for group, tree, rewards in zip([GROUP, other], trees, together, strict=True):
        alone = prm.score_batch([group], [tree])[0].steps
        assert torch.allclose(alone, rewards.steps, atol=1e-5)


def test_outcomes(folders):
    path, model, tok = folders["token-classification"]
    with torch.no_grad():
        a, b = by_hand("token-classification", model, tok, ["1+2=3", "3+4=7"])
    for outcome, value in (("min", min(a, b)), ("product", a * b), ("last", b), ("mean", (a + b) / 2)):
        prm = HuggingFacePRM(path, convention="token-classification", outcome=outcome, device="cpu")
        found = prm.score_batch([GROUP], [TREE])[0].outcome.tolist()
        assert found[0] == pytest.approx(value, abs=1e-5)
        assert math.isnan(found[3])  # no step at all


def test_a_head_that_was_never_trained(folders):
    """A causal language model has no classifier."""
    prm = HuggingFacePRM(folders["math-shepherd"][0], convention="token-classification", device="cpu")
    with pytest.raises(ValueError, match=r"lacks weights .*: score.bias, score.weight. .* trained as a process"):
        prm.score_batch([GROUP], [TREE])


def test_a_separator_in_a_step_is_no_separator(folders):
    path, *_ = folders["math-shepherd"]
    prm = HuggingFacePRM(path, convention="math-shepherd", device="cpu")
    group = toy_group(["1 ки ки\n2\n"], prompt="ки?")
    tree = DelimiterSegmenter().segment(group)
    plain = toy_group(["1  \n2\n"], prompt="?")
    steps = prm.score_batch([group], [tree])[0].steps
    assert not steps.isnan().any()
    assert torch.allclose(steps, prm.score_batch([plain], [DelimiterSegmenter().segment(plain)])[0].steps, atol=1e-5)


def test_it_is_never_trained(folders):
    prm = HuggingFacePRM(folders["math-shepherd"][0], convention="math-shepherd", device="cpu")
    rewards = prm.score_batch([GROUP], [TREE])[0]
    assert not rewards.steps.requires_grad
    assert not any(p.requires_grad for p in prm._model.parameters())


def test_contracts(folders):
    path = folders["token-classification"][0]
    options = {"path": path, "convention": "token-classification", "device": "cpu", "outcome": "mean"}
    check_reward_model(HuggingFacePRM(**options), toy_group(["1\n2\n", "1\n", "3\n", "4"]))
    check_component(HuggingFacePRM(**options), options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"convention": "skywork"}, "it must be one of math-shepherd, qwen2.5-math-prm, token-classification"),
        ({"outcome": "max"}, "outcome is 'max'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        HuggingFacePRM("somewhere", **options)


def test_a_tokenizer_without_the_separator(folders):
    prm = HuggingFacePRM(folders["token-classification"][0], convention="qwen2.5-math-prm", separator="∎", device="cpu")
    with pytest.raises(ValueError, match=r"has no token '∎', which the convention 'qwen2\.5-math-prm' needs"):
        prm.score_batch([GROUP], [TREE])

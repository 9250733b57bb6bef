import hashlib
import json
import random
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.config import ASSETS, PolicyConfig
from tools import calling, make_arithmetic

FOLDER = ASSETS / "arithmetic"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_the_folder_is_small_and_complete():
    files = {p.name: p.stat().st_size for p in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert sum(files.values()) <= 4_000_000


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match="'lgrpo:poetry'; the models in this package are lgrpo:arithmetic"):
        _ = PolicyConfig(path="lgrpo:poetry").resolved_path


def test_the_model_is_a_tied_llama_that_vllm_can_run(model, tokenizer):
    config = model.config
    assert (config.model_type, config.tie_word_embeddings, config.head_dim) == ("llama", True, 32)
    assert 0.75e6 < sum(p.numel() for p in model.parameters()) < 1.0e6
    assert config.vocab_size == len(tokenizer)
    assert config.max_position_embeddings == tokenizer.model_max_length == 256
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_its_special_tokens_are_told_apart(model, tokenizer):
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_every_character_is_a_token_and_decodes_to_itself(tokenizer):
    text = make_arithmetic.CHARACTERS + "12+7=19\n  two  spaces\n\n<eos"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]


def accuracy(model, tokenizer, **options):
    """Share of right final sums over 200 tasks, and whether every completion ended by itself."""
    rows = ArithmeticTasks(count=200, seed=99).rows()
    inputs = tokenizer([r["prompt"] for r in rows], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    out = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=48, **options
    )[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(out, skip_special_tokens=True)
    right = [re.findall(r"\d+", text)[-1:] == [str(row["answer"])] for text, row in zip(texts, rows, strict=True)]
    return sum(right) / len(rows), bool((out == tokenizer.eos_token_id).any(1).all())


def test_greedy_it_adds_and_sampled_it_slips(model, tokenizer):
    greedy, ended = accuracy(model, tokenizer, do_sample=False)
    assert ended
    assert greedy >= 0.95
    sampled, ended = accuracy(model, tokenizer, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    assert ended
    assert 0.35 <= sampled <= 0.55


def test_the_supervised_labels_are_the_solution_and_the_end():
    tokenizer = make_arithmetic.build_tokenizer()
    options = make_arithmetic.parse(["--out", ".", "--batch", "5"])
    ids, labels = next(make_arithmetic.batches(tokenizer, random.Random(0), options))
    assert ids.shape == labels.shape
    for row, label in zip(ids, labels, strict=True):
        trained = label != -100
        assert torch.equal(row[trained], label[trained])
        assert tokenizer.decode(row[~trained], skip_special_tokens=True).endswith("=")
        assert re.fullmatch(r"(\d+\+\d+=\d+\n)+<eos>", tokenizer.decode(label[trained]))


def test_with_the_solution_before_the_sum_the_answer_is_right():
    tokenizer = make_arithmetic.build_tokenizer()
    options = make_arithmetic.parse(["--out", ".", "--batch", "40", "--solved-rate", "0.5", "--mistake-rate", "1"])
    ids, labels = next(make_arithmetic.batches(tokenizer, random.Random(0), options))
    texts = [tokenizer.decode(row[row != tokenizer.pad_token_id]) for row in ids]
    solved = [text for text in texts if re.fullmatch(r"((?:\d+\+\d+=\d+\n)+)[\d+]+=\1<eos>", text)]
    assert 10 <= len(solved) <= 30
    assert all("\n" not in text.partition("=")[0] for text in {*texts} - {*solved})
    answers = [tokenizer.decode(label[label != -100]) for label in labels]
    assert all(text.endswith(answer) for text, answer in zip(texts, answers, strict=True))


def test_labels_of_calls_leave_out_what_the_calculator_says():
    tokenizer = make_arithmetic.build_tokenizer()
    options = make_arithmetic.parse(["--out", ".", "--batch", "40", "--call-rate", "0.5", "--max-term", "60"])
    ids, labels = next(make_arithmetic.batches(tokenizer, random.Random(0), options))
    texts = [tokenizer.decode(row[row != tokenizer.pad_token_id]).removeprefix(calling.TOOLS) for row in ids]
    trained = [tokenizer.decode(label[label != -100]) for label in labels]
    calls = [(text, own) for text, own in zip(texts, trained, strict=True) if "[" in text]
    assert 10 <= len(calls) <= 30
    for text, own in calls:
        found = re.fullmatch(r'([\d+]+)=\[calculate\(expression="\1"\)\]<eos>(\d+)\n=\2\n<eos>', text)
        assert found, text
        assert sum(map(int, found[1].split("+"))) == int(found[2])
        assert own == f'[calculate(expression="{found[1]}")]<eos>={found[2]}\n<eos>'


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_script_makes_the_same_bytes_again(tmp_path):
    threads = torch.get_num_threads()
    for name in ("a", "b"):
        arguments = ["--out", str(tmp_path / name), "--steps", "2", "--batch", "4"]
        make_arithmetic.make(make_arithmetic.parse(arguments))
    torch.set_num_threads(threads)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")["tokenizer.json"] == digest(FOLDER)["tokenizer.json"]
    made, shipped = (json.loads((p / "config.json").read_text()) for p in (tmp_path / "a", FOLDER))
    assert made | {"transformers_version": ""} == shipped | {"transformers_version": ""}


def test_a_variant_begins_with_the_shipped_model_and_has_a_chat_template(tmp_path):
    threads = torch.get_num_threads()
    arguments = [
        "--begin",
        "lgrpo:arithmetic",
        "--call-rate",
        "0.1",
        "--steps",
        "1",
        "--batch",
        "2",
        "--lr",
        "1e-9",
    ]
    make_arithmetic.make(make_arithmetic.parse(["--out", str(tmp_path), *arguments]))
    torch.set_num_threads(threads)
    made, shipped = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (tmp_path, FOLDER))
    for name, tensor in shipped.items():
        torch.testing.assert_close(made[name], tensor, atol=1e-6, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == calling.TEMPLATE
    assert AutoTokenizer.from_pretrained(FOLDER).chat_template is None

"""The model of the binary tree is what its script writes, and holds no weights."""

from pathlib import Path

from transformers import AutoTokenizer

from lgrpo_lightning.policy.config import ASSETS
from tools import make_arithmetic, make_toy


def test_the_script_makes_the_shipped_files(tmp_path: Path) -> None:
    make_toy.make(tmp_path)
    shipped = ASSETS / "toy"
    assert {p.name for p in shipped.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    for made in tmp_path.iterdir():
        lines = [x for x in made.read_text().splitlines() if "transformers_version" not in x]
        assert lines == [x for x in (shipped / made.name).read_text().splitlines() if "transformers_version" not in x]


def test_every_letter_is_a_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "toy")
    assert tokenizer("^LRRL")["input_ids"] == [3, 4, 5, 5, 4]
    assert tokenizer.eos_token_id == 1


def test_a_share_of_the_solutions_gives_up() -> None:
    import random

    tokenizer = make_arithmetic.build_tokenizer()
    options = make_arithmetic.parse(["--out", ".", "--batch", "400", "--abstain-rate", "0.25"])
    _, labels = next(make_arithmetic.batches(tokenizer, random.Random(0), options))
    end = [*tokenizer.encode(make_arithmetic.ABSTENTION), tokenizer.eos_token_id]
    given_up = sum(row[row != -100].tolist() == end for row in labels)
    assert 70 <= given_up <= 130

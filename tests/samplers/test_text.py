import pytest

from lgrpo_lightning.samplers.text import decoded
from tests.models import tokenizer


def test_characters() -> None:
    tok = tokenizer()
    ids = tok("12+7=\n19")["input_ids"]
    text, ends = decoded(tok, [*ids, tok.eos_token_id])
    assert text == "12+7=\n19"
    assert ends == (1, 2, 3, 4, 5, 6, 7, 8, 8)


def test_tokens_inside_a_character_end_where_the_one_before_does() -> None:
    """A byte-level tokenizer with no merges: the bytes of é and 🙂 are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=inner)
    text, ends = decoded(tok, tok("aé🙂b")["input_ids"])
    assert text == "aé🙂b"
    assert ends == (1, 1, 2, 2, 2, 2, 3, 4)


@pytest.mark.parametrize("ids", [[], [1]])
def test_nothing_to_show(ids: list[int]) -> None:
    assert decoded(tokenizer(), ids) == ("", (0,) * len(ids))

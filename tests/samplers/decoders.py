"""A tokenizer for every type of decoder that the library ``tokenizers`` has, and texts in many scripts for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

CHARACTERS = "abcdenotxy012.,!?'= \n"
FOREIGN = "éßñ中文结束了あ한ไทย🎉🙂👩‍👩‍👧🇩🇪\u0301"
MERGES = [("a", "b"), ("n", "o"), ("t", "o"), ("=", "="), ("ab", "no")]


def llama(*strings: str) -> Any:
    """As Llama 2's: what it has no piece for is spelled in bytes, the newline too, and the first space falls off."""
    from tokenizers import decoders

    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(content=" ", left=1, right=0),
    ]
    return _made(decoders.Sequence(steps), space="▁", prefix=True, fallback=True, strings=strings)


def _made(
    decoder: Any,
    *,
    space: str = " ",
    prefix: bool = False,
    fallback: bool = False,
    strings: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A tokenizer of characters and a few merges, with bytes for other characters where ``fallback``."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<eos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256) if fallback)]
    pieces += [space if c == " " else c for c in CHARACTERS if not (fallback and c == "\n")]
    pieces += [] if fallback else [c for c in FOREIGN if c not in CHARACTERS]
    pieces += [a + b for a, b in MERGES] + list(strings)
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", byte_fallback=fallback))
    steps = [normalizers.Prepend(space)] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", space)])
    inner.decoder = decoder
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", **options
    )


def _byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("n", "o"), ("ð", "Ł"), ("ðŁ", "İ"), ("ĸ", "ĩ"), ("a", "ä"), ("¸", "Ń")]
    pieces = ["<pad>", "<eos>", *alphabet, *(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def _word_pieces(**options: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [c for c in CHARACTERS + FOREIGN if not c.isspace()]
    pieces = dict.fromkeys(["<pad>", "<eos>", "<unk>", *letters, *(f"##{c}" for c in letters), "do", "not"])
    inner = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", **options
    )


def _byt5() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def _of(*names_and_arguments: Any, **options: Any) -> Callable[[], Any]:
    """The recipe of a tokenizer whose decoder is a sequence of ``(name, *arguments)``."""

    def recipe() -> Any:
        from tokenizers import decoders

        steps = [getattr(decoders, name)(*arguments) for name, *arguments in names_and_arguments]
        return _made(decoders.Sequence(steps), **options)

    return recipe


BYTES = (("Replace", "▁", " "), ("ByteFallback",), ("Fuse",))

RECIPES: dict[str, Callable[[], Any]] = {
    "byte level": _byte_level,
    "byte fallback, Llama 2": llama,
    "byte fallback, Gemma": _of(*BYTES, space="▁", fallback=True),
    "byte fallback without fuse": _of(*BYTES[:2], space="▁", fallback=True),
    "metaspace": _of(("Metaspace",), space="▁", prefix=True),
    "metaspace over bytes": _of(("ByteFallback",), ("Metaspace",), space="▁", fallback=True),
    "word pieces": _word_pieces,
    "word pieces, cleaned up": lambda: _word_pieces(clean_up_tokenization_spaces=True),
    "CTC": _of(("CTC", "<pad>", "=", True)),
    "suffix": _of(("BPEDecoder", "o")),
    "strip": _of(("Fuse",), ("Strip", " ", 2, 0)),
    "strip each": _of(("Strip", "a", 1, 0), ("Fuse",)),
    "replace": _of(("Fuse",), ("Replace", "no", "N"), ("Replace", "abc", "")),
    "replace in bytes": _of(*BYTES, ("Replace", "  ", " "), space="▁", fallback=True),
    "no decoder": lambda: _made(None),
    "bytes in Python": _byt5,
}


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer with this decoder."""
    return RECIPES[name]()


def texts(seed: int, count: int, length: int) -> list[str]:
    """Random texts: words of ASCII, runs of other characters, and both mixed."""
    draw = Random(seed)
    alphabets = (CHARACTERS, FOREIGN, CHARACTERS + FOREIGN, "🎉\n", "ab no")
    return ["".join(draw.choices(draw.choice(alphabets), k=draw.randrange(1, length))) for _ in range(count)]

"""Makes the quickstart's model: ``python -m tools.make_arithmetic --out FOLDER``.

A character-level Llama of 0.8M parameters, trained on worked sums in which every line is wrong with a
chance of 24 %. It has learnt to add and to slip: sampled, about half of its answers are right, and there is
something for reinforcement learning to gain. One thread and one machine give the same bytes every time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.data.arithmetic import draw_numbers, make_row, solve_sum
from lgrpo_lightning.policy import PolicyConfig
from tools import calling
from tools.supervised import train

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
CONTEXT = 256
ABSTENTION = "?\n"
"""The answer of a model that gives up."""


def build_tokenizer() -> Any:
    """The tokenizer of the arithmetic model."""
    return character_tokenizer([PAD, EOS, UNKNOWN, *CHARACTERS], model_max_length=CONTEXT, padding_side="left")


def character_tokenizer(tokens: Sequence[str], **options: Any) -> Any:
    """Every character is a token; decoding gives the text back exactly.

    Args:
        tokens: Padding, end of sequence, unknown, and the characters.
        options: More arguments of the tokenizer.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, eos, unknown = tokens[:3]
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        eos_token=eos,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
        **options,
    )


def build_model(tokenizer: Any) -> Any:
    """An untrained Llama for ``tokenizer``; its heads of 32 are the smallest that vLLM runs on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def begun(path: str) -> Any:
    """The model of a folder, or a shipped one such as "lgrpo:arithmetic", to be trained further."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(PolicyConfig(path=path).resolved_path)


def batches(tokenizer: Any, rng: random.Random, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of token ids and labels, ``[batch, T]``; prompts and padding are not trained."""
    sums = draw_numbers(rng, options.min_terms, options.terms, options.max_term)
    while True:
        ids, labels = [], []
        for _ in range(options.batch):
            terms = next(sums)
            shown = calling.TOOLS if options.call_rate else ""
            solved = bool(options.solved_rate) and rng.random() < options.solved_rate
            prompt = tokenizer.encode(shown + (solve_sum(terms) if solved else "") + make_row(terms)["prompt"])
            answer, trained = _answer(
                tokenizer, terms, rng, options, mistake_rate=0 if solved else options.mistake_rate
            )
            ids.append(torch.tensor(prompt + answer))
            labels.append(torch.tensor([-100] * len(prompt) + trained))
        yield _stacked(ids, tokenizer.pad_token_id), _stacked(labels, -100)


def _answer(
    tokenizer: Any, terms: Sequence[int], rng: random.Random, options: argparse.Namespace, *, mistake_rate: float
) -> tuple[list[int], list[int]]:
    """Token ids of an answer, and which of them are trained: worked out, given up, or by calling the calculator."""
    text = solve_sum(terms, mistake_rate=mistake_rate, rng=rng)
    if options.abstain_rate and rng.random() < options.abstain_rate:
        text = ABSTENTION
    if options.call_rate and rng.random() < options.call_rate:
        return calling.example(tokenizer, terms)
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    return ids, ids


def make(options: argparse.Namespace) -> None:
    """Train the model and write its folder."""
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    if options.call_rate:
        tokenizer.chat_template = calling.TEMPLATE
    model = begun(options.begin) if options.begin else build_model(tokenizer)
    train(model, batches(tokenizer, random.Random(options.seed), options), options)
    options.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    for path in options.out.iterdir():
        path.chmod(0o644)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; its defaults made the shipped model."""
    parser = argparse.ArgumentParser(description="Make the quickstart's model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--begin", default="", help="model to train further, such as lgrpo:arithmetic")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--terms", type=int, default=4, help="numbers in the longest sum")
    parser.add_argument("--min-terms", type=int, default=2, help="numbers in the shortest sum")
    parser.add_argument("--max-term", type=int, default=20, help="largest number in a sum")
    parser.add_argument("--mistake-rate", type=float, default=0.24, help="chance of a line to be wrong")
    parser.add_argument("--abstain-rate", type=float, default=0.0, help="chance of the answer '?'")
    parser.add_argument(
        "--solved-rate", type=float, default=0.0, help="chance of a solution before the sum, and a right answer"
    )
    parser.add_argument(
        "--call-rate", type=float, default=0.0, help="chance of an answer by the calculator; above 0, chats"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _stacked(rows: list[Tensor], padding: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)


if __name__ == "__main__":
    make(parse())

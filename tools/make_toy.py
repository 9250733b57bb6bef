"""Makes the model of the binary tree: ``python -m tools.make_toy --out FOLDER``.

A GPT-2 of two layers over two letters, without weights: a run draws them (``policy.weights: random``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.make_arithmetic import EOS, PAD, UNKNOWN, character_tokenizer

LETTERS = "^LR"
CONTEXT = 16


def make(out: Path) -> None:
    """Write the folder."""
    from transformers import GPT2Config

    tokenizer = character_tokenizer([PAD, EOS, UNKNOWN, *LETTERS], model_max_length=CONTEXT, padding_side="left")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["GPT2LMHeadModel"],
    )
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the model of the binary tree.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    make(parser.parse_args().out)

"""A script for TRL on GSM8K, with the interfaces of TRL's own example (examples/scripts/grpo_continuous_batching.py).

The data have GSM8K's columns, and the reward reads them.
"""

from __future__ import annotations

import json
from pathlib import Path

ROWS = [
    {
        "question": f"Ann has {n} pens and buys {n + 2} more. How many?",
        "answer": f"{n}+{n + 2}\n#### {2 * n + 2}",
    }
    for n in range(1, 5)
]

REWARDS = '''
import re


def number(text):
    """The number behind ####, without commas."""
    found = re.search(r"####\\s*([\\d,]+)", text)
    return found.group(1).replace(",", "") if found else None


def correctness(completions, answer, **kwargs):
    """1 where the completion's number is that of the worked solution."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(number(t) is not None and number(t) == number(a)) for t, a in zip(texts, answer, strict=True)]
'''

SCRIPT = """
from pathlib import Path

from datasets import load_dataset
from gsm8k_rewards import correctness
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

Path("ran").write_text("the script was run")
SYSTEM = "Solve it. End with a line #### and the number."


def conversation(row):
    return {
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": row["question"]},
        ],
        "reference": row["answer"].split("####")[-1].strip(),
    }


if __name__ == "__main__":
    dataset = load_dataset("json", data_files="gsm8k.jsonl", split="train")
    dataset = dataset.map(conversation)
    arguments = GRPOConfig(
        output_dir="grpo-gsm8k",
        num_generations=4,
        max_completion_length=1024,
        max_steps=2,
        beta=0.001,
        bf16=False,
        logging_steps=1,
        log_completions=True,
        learning_rate=float("2e-6"),
    )
    arguments.use_transformers_continuous_batching = True
    trainer = GRPOTrainer(
        model="Qwen/Qwen3-1.7B",
        reward_funcs=correctness,
        args=arguments,
        train_dataset=dataset,
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    trainer.train()
"""


def write(folder: Path) -> Path:
    """Data, reward and script in ``folder``; the script."""
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "gsm8k_rewards.py").write_text(REWARDS)
    (folder / "train.py").write_text(SCRIPT)
    return folder / "train.py"

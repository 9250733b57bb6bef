"""Prompts that cannot be read or used."""

from __future__ import annotations

import json

from tests.integration.mistakes.case import BadInput, own
from tests.integration.mistakes.rewards import ROWS, function
from tests.models import make_model

CHAT = json.dumps({"prompt": [{"role": "user", "content": "1+1="}], "answer": 2}) + "\n"

DATA = {
    "no data": BadInput(
        says=("data.train is not set", "lgrpo fit", "ArithmeticTasks"),
        did="no `data.train` at all",
        config={"data.train": None},
    ),
    "missing data file": BadInput(
        says=("no file prompts.jsonl", "looked in"),
        did="`data.train: prompts.jsonl`, which is not there",
        config={"data.train": "prompts.jsonl"},
    ),
    "unknown extension": BadInput(
        says=("prompts.xlsx", "cannot read .xlsx", ".jsonl, .json, .ndjson, .csv"),
        did="`data.train: prompts.xlsx`",
        config={"data.train": "prompts.xlsx"},
        files={"prompts.xlsx": "1+1="},
    ),
    "empty file": BadInput(
        says=("prompts.jsonl is empty", "'prompt'"),
        did="an empty `prompts.jsonl`",
        config=own(),
        files={"prompts.jsonl": ""},
    ),
    "malformed line": BadInput(
        says=("prompts.jsonl, line 3", "not valid JSON", '{"prompt"'),
        did="line 3 of `prompts.jsonl` is cut off",
        config=own(),
        files={"prompts.jsonl": ROWS[:70]},
    ),
    "not an object": BadInput(
        says=("prompts.jsonl, line 7", "a list", '{"prompt"'),
        did="line 7 of `prompts.jsonl` is a list",
        config=own(),
        files={"prompts.jsonl": ROWS + '["1+1=", 2]\n'},
    ),
    "not UTF-8": BadInput(
        says=("prompts.jsonl, line 1", "not UTF-8", "column 13"),
        did="`prompts.jsonl` is in Latin-1",
        config=own(),
        prepare=lambda folder: (folder / "prompts.jsonl").write_bytes(
            '{"prompt": "é", "answer": 1}\n'.encode("latin-1")
        ),
    ),
    "folder of several kinds": BadInput(
        says=("prompts holds files of several kinds (.csv, .jsonl)", "prompts/*.csv"),
        did="`data.train: prompts`, a folder with files of two kinds",
        config={"data.train": "prompts"},
        files={"prompts/1.jsonl": ROWS, "prompts/2.csv": "prompt,answer\n1+1=,2\n"},
    ),
    "pattern without files": BadInput(
        says=("No file matches prompts/*.parquet", "looked in"),
        did="`data.train: prompts/*.parquet`, which matches nothing",
        config={"data.train": "prompts/*.parquet"},
    ),
    "half of a surrogate pair": BadInput(
        says=("prompts.jsonl, row 6", "'note'", "surrogate"),
        did="a column with half of a surrogate pair (`\\ud800`)",
        config=own(),
        files={"prompts.jsonl": ROWS + '{"prompt": "1+1=", "answer": 2, "note": "\\ud800"}\n'},
    ),
    "answer of another type": BadInput(
        says=("prompts.jsonl, row 6", "ExactMatch", "an object with the entries a, b"),
        did="an answer that is an object of several entries",
        config=own(),
        files={"prompts.jsonl": ROWS + '{"prompt": "1+1=", "answer": {"a": 1, "b": 2}}\n'},
    ),
    "message without content": BadInput(
        says=("prompts.jsonl, row 0", "message 0 (user) has no content"),
        did="a message without `content`",
        config=own(),
        files={"prompts.jsonl": CHAT.replace(', "content": "1+1="', "")},
    ),
    "arguments of the template": BadInput(
        says=("data.chat_template_kwargs has tokenize", "settled here"),
        did="`data.chat_template_kwargs: {tokenize: true}`",
        config={"data.chat_template_kwargs": {"tokenize": True}},
    ),
    "missing prompt column": BadInput(
        says=("prompts.jsonl, row 0", "'question', 'answer'", "prompt_column"),
        did="the prompts are in a column `question`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"prompt"', '"question"')},
    ),
    "empty prompt": BadInput(
        says=("prompts.jsonl, row 6", "empty"),
        did="the prompt of row 6 is empty",
        config=own(),
        files={"prompts.jsonl": ROWS + '{"prompt": "", "answer": 1}\n'},
    ),
    "missing reward column": BadInput(
        says=("prompts.jsonl, row 0", "'ExactMatch' needs a column 'answer'", "'solution'"),
        did="`ExactMatch` reads `answer`, the data has `solution`",
        config=own(),
        files={"prompts.jsonl": ROWS.replace('"answer"', '"solution"')},
    ),
    "missing column of a function": BadInput(
        says=("'by_level' needs a column 'level'", "'prompt', 'answer'"),
        did="a reward function with an argument `level`, which the data lacks",
        config=own() | function("by_level"),
        files={"prompts.jsonl": ROWS},
    ),
    "longer than the context": BadInput(
        says=("prompts.jsonl", "train/6 has 600 tokens", "at most 224", "long_prompts: drop"),
        did="a prompt longer than the model's context leaves room for",
        config=own(),
        files={"prompts.jsonl": ROWS + json.dumps({"prompt": "1+" * 300, "answer": 1}) + "\n"},
    ),
    "longer than max_prompt_length": BadInput(
        says=("train/0 has 4 tokens", "at most 3", "max_prompt_length"),
        did="`data.max_prompt_length: 3` and prompts of 4 tokens",
        config=own() | {"data.max_prompt_length": 3},
        files={"prompts.jsonl": ROWS},
    ),
    "chat without template": BadInput(
        says=("prompts.jsonl, row 0", "has no chat template", "instruction-tuned"),
        did="a prompt that is a list of messages, for a model without a chat template",
        config=own() | {"model.policy.path": "model"},
        files={"prompts.jsonl": CHAT * 4},
        prepare=lambda folder: make_model("llama", folder / "model"),
    ),
    "fewer prompts than a step": BadInput(
        says=("data.prompts_per_step is 16", "only 6 prompts", "at most 6"),
        did="`data.prompts_per_step: 16` with 6 prompts",
        config=own() | {"data.prompts_per_step": 16},
        files={"prompts.jsonl": ROWS},
    ),
    "no split": BadInput(
        says=("prompts.jsonl", "split='train'", "Leave split out"),
        did="`split: train` of a file",
        config=own(split="train"),
        files={"prompts.jsonl": ROWS},
    ),
    "hub offline": BadInput(
        ours=False,
        says=("openai/gsm8k", "neither a file"),
        did="`data.train: openai/gsm8k` without a network",
        config={"data.train": "openai/gsm8k"},
    ),
}

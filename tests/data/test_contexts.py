"""What a teacher reads: rendered and tokenised as prompts are, and refused before the first step."""

import json
from typing import Any

import pytest

from lgrpo_lightning.data.contexts import complete_context, list_columns
from tests.data.test_encoding import CHAT, encoder, one

SOLVED = "{prompt}\n\nSolution: {solution}"
ROW = {"prompt": "1+1?", "solution": "it is 2", "answer": 2}


def read(row: dict[str, Any], template: str = SOLVED, **options: Any) -> tuple[str, str]:
    """(the prompt, the prompt with its context) as text."""
    made = encoder(contexts=(template,), **options)
    prompt = one(made, row)
    return prompt.text, made.tokenizer.decode(prompt.contexts[template])


def test_a_text_is_put_into_the_template() -> None:
    assert read(ROW) == ("1+1?", "1+1?\n\nSolution: it is 2")
    assert read(ROW, "{{{answer}}} {prompt}")[1] == "{2} 1+1?"
    assert read(ROW | {"solution": "{answer}"})[1] == "1+1?\n\nSolution: {answer}"  # a value is no template


def test_in_a_chat_the_last_user_message_has_it() -> None:
    chat = [*CHAT, {"role": "assistant", "content": "3"}, {"role": "user", "content": "no?"}]
    own = "<user>1+1?<assistant>3<user>no?"
    expected = (f"{own}<assistant>", f"{own}\n\nSolution: it is 2<assistant>")
    assert read(ROW | {"prompt": chat}) == expected
    assert read(ROW | {"prompt": json.dumps(chat)}) == expected
    assert read(ROW, chat=True, system_prompt="Add.")[1] == "<system>Add.<user>1+1?\n\nSolution: it is 2<assistant>"
    begun = [*CHAT, {"role": "assistant", "content": "It"}]
    assert read(ROW | {"prompt": begun}, prefill=True)[1] == "<user>1+1?\n\nSolution: it is 2<assistant>It"
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): no message is a user's"):
        read(ROW | {"prompt": [{"role": "system", "content": "Add."}]})


def test_the_name_of_a_column_is_short_for_a_template() -> None:
    assert complete_context("context", "solution") == "{prompt}\n\n{solution}"
    assert list_columns("{solution}{prompt}{answer}{solution}") == ("solution", "answer")
    for wrong in ("{solution}", "{prompt}", "{prompt} {}", "{prompt} {solution", "{prompt} {solution!r}", ""):
        with pytest.raises(ValueError, match=r"^context is "):
            complete_context("context", wrong)


def test_one_too_long_for_the_model_is_refused_or_left_out() -> None:
    with pytest.raises(ValueError, match=r"p.jsonl: prompt train/0, with the context '.*', has 23 tokens; at most 20"):
        read(ROW, max_length=100, max_context_length=20)
    rows = [ROW, ROW | {"solution": "2"}]
    made = encoder(contexts=(SOLVED,), max_context_length=20, long_prompts="drop")
    assert [p.uid for p in made.encode(rows, name="train", origin="p.jsonl")] == ["train/1"]

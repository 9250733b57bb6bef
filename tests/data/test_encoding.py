from types import SimpleNamespace

import pytest

from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.data.set_encoder import SetEncoder
from lgrpo_lightning.rewards import ExactMatch, RewardSum
from tools.make_arithmetic import build_tokenizer

TEMPLATE = (
    "{% if no_users is defined %}{{ raise_exception('no users') }}{% endif %}"
    "{% if mode is defined %}({{ mode }}){% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [{"role": "user", "content": "1+1?"}]


def encoder(template=TEMPLATE, **options):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer=tokenizer, **{"max_length": 100, **options})


def one(encoder, row):
    return encoder.encode([row], name="train", origin="p.jsonl")[0]


def test_a_string_is_used_as_it_is_and_columns_come_along():
    prompts = encoder().encode(
        [{"prompt": "1+1=", "answer": 2}, {"answer": 3, "prompt": " 2 "}], name="train", origin="p.jsonl"
    )
    assert [(p.uid, p.text, dict(p.columns), p.messages) for p in prompts] == [
        ("train/0", "1+1=", {"answer": 2}, None),
        ("train/1", " 2 ", {"answer": 3}, None),
    ]
    assert encoder().tokenizer.decode(prompts[0].token_ids) == "1+1="
    assert {type(i) for i in prompts[0].token_ids} == {int}


def test_messages_are_rendered_with_the_generation_prompt():
    prompt = one(encoder(), {"prompt": CHAT})
    assert prompt.text == "<user>1+1?<assistant>"
    assert prompt.messages == tuple(CHAT)


def test_chat_true_makes_a_chat_of_a_string():
    prompt = one(encoder(chat=True, system_prompt="Add."), {"prompt": "1+1?"})
    assert prompt.text == "<system>Add.<user>1+1?<assistant>"
    assert prompt.messages == ({"role": "system", "content": "Add."}, CHAT[0])


def test_a_chat_keeps_its_own_system_message():
    own = [{"role": "system", "content": "Mine."}, *CHAT]
    assert one(encoder(system_prompt="Add."), {"prompt": own}).text == "<system>Mine.<user>1+1?<assistant>"


def test_template_arguments_are_passed_through():
    assert one(encoder(chat_template_kwargs={"mode": "fast"}), {"prompt": CHAT}).text.startswith("(fast)<user>")


def test_special_tokens_come_once():
    from tokenizers.processors import TemplateProcessing

    encode = encoder("{{ '<eos>' }}" + TEMPLATE)
    tokenizer = encode.tokenizer  # with <eos> in the part of a beginning-of-sequence token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    for row in ({"prompt": "1+1="}, {"prompt": CHAT}):
        ids = one(encode, row).token_ids
        assert ids[0] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1


def test_long_prompts_are_an_error_or_dropped_and_keep_their_uids():
    rows = [{"prompt": "1+1="}, {"prompt": "1+" * 60}, {"prompt": "2+2="}]
    with pytest.raises(ValueError, match=r"p.jsonl: prompt train/1 has 120 tokens; at most 100 are possible"):
        encoder().encode(rows, name="train", origin="p.jsonl")
    kept = encoder(long_prompts="drop").encode(rows, name="train", origin="p.jsonl")
    assert [p.uid for p in kept] == ["train/0", "train/2"]
    with pytest.raises(ValueError, match=r"p.jsonl gives no prompts: every prompt is longer than 100 tokens"):
        encoder(long_prompts="drop").encode(rows[1:2], name="train", origin="p.jsonl")


BAD = {
    "empty": ({}, "", r"p.jsonl, row 1 \(from 0\): the prompt is empty"),
    "blank": ({}, " \n", "row 1 .*the prompt is empty"),
    "no messages": ({}, [], "row 1 .*the prompt is empty"),
    "number": ({}, 42, "row 1 .*the prompt is 42, of type int; it must be a string or a list"),
    "null": ({}, None, "row 1 .*the prompt is None, of type NoneType"),
    "strings": ({}, ["hello"], "row 1 .*message 0 is 'hello'; a message is an object with a role"),
    "no role": ({}, [*CHAT, {"content": "x"}], "row 1 .*message 1 is {'content': 'x'}"),
    "chat false": ({"chat": False}, CHAT, "row 1 .*is a list of messages, but chat is false"),
    "no template": (
        {"template": None},
        CHAT,
        "row 1 .*a chat prompt, but the tokenizer .* has no chat template",
    ),
    "refused": (
        {"chat_template_kwargs": {"no_users": 1}},
        CHAT,
        "row 1 .*the chat template .*refuses.*no users",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_prompt_is_named_by_its_row(case):
    options, prompt, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        encoder(**options).encode(
            [{"prompt": "1"}, {"prompt": prompt}],
            name="train",
            origin="p.jsonl",
        )


def test_a_system_prompt_needs_a_chat():
    with pytest.raises(ValueError, match=r"row 0 .*system_prompt is set, but the prompt is a plain string. Set chat"):
        one(encoder(system_prompt="Add."), {"prompt": "1+1="})


def test_a_source_without_prompts():
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): there is no 'prompt'; the columns are 'question'"):
        one(encoder(), {"question": "1+1="})
    with pytest.raises(ValueError, match="MyTasks gives no prompts: there are no rows"):
        encoder().encode([], name="train", origin="MyTasks")


def test_a_column_that_a_reward_needs():
    rows = [{"prompt": "1", "answer": 2}, {"prompt": "1", "level": 2}]
    judged = SimpleNamespace(reward_model=RewardSum([ExactMatch()]))
    encode = SetEncoder("train", PromptFile("p.jsonl"), encoder(), judged)
    encode.encode(rows[:1])
    with pytest.raises(
        ValueError,
        match=r"p.jsonl, row 1 \(from 0\): .*the reward 'ExactMatch' needs a column 'answer'.*'prompt', 'level'",
    ):
        encode.encode(rows)

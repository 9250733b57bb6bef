"""Which ids may be sampled."""

import pytest

from lgrpo_lightning.functional.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "complete", "excluded"),
    [
        (Vocabulary(total=4, size=4), True, []),
        (Vocabulary(total=4, size=3), False, [3]),
        (Vocabulary(total=4, size=4, holes=(1,)), False, [1]),
        (Vocabulary(total=4, size=3, holes=(1,)), False, [1, 3]),
    ],
)
def test_ids_that_may_not_be_sampled(vocabulary: Vocabulary, complete: bool, excluded: list[int]) -> None:
    assert (vocabulary.complete, vocabulary.excluded) == (complete, excluded)


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (Vocabulary(total=4, size=3), "1 of the model's 4 token ids have no text in the tokenizer (the first is 3): "),
        (Vocabulary(total=4, size=4, holes=(1,), suppressed=(1,)), "1 of the model's 4 token ids are suppressed: "),
        (
            Vocabulary(total=4, size=3, holes=(1,), suppressed=(1,)),
            "1 of the model's 4 token ids have no text in the tokenizer (the first is 3), 1 are suppressed: ",
        ),
    ],
)
def test_what_is_said_of_them(vocabulary: Vocabulary, said: str) -> None:
    assert vocabulary.announcement().startswith(said + "they are never drawn")

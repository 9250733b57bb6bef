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

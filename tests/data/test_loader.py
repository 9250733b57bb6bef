import pytest

from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.sizes import check_prompts_per_step
from lgrpo_lightning.types import Prompt


def prompts(n):
    return [Prompt(uid=f"train/{i}", text="x", token_ids=(1,)) for i in range(n)]


def uids(loader):
    return [[p.uid for p in batch] for batch in loader]


def test_an_epoch_has_every_prompt_once_and_epochs_differ():
    loader = PromptLoader(prompts(12), 4, shuffle=True, seed=1, drop_last=True)
    first, second = uids(loader), uids(loader)
    everything = {f"train/{i}" for i in range(12)}
    assert {u for b in first for u in b} == {u for b in second for u in b} == everything
    assert first != second
    assert [len(b) for b in first] == [4, 4, 4] == [4] * len(loader)
    assert uids(PromptLoader(prompts(12), 4, shuffle=True, seed=1, drop_last=True)) == first
    assert uids(PromptLoader(prompts(12), 4, shuffle=True, seed=2, drop_last=True)) != first


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_every_batch_in_turn(world_size):
    whole = PromptLoader(prompts(16), 8, shuffle=True, seed=5)
    parts = [
        PromptLoader(prompts(16), 8, shuffle=True, seed=5, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for batch, *shares in zip(uids(whole), *map(uids, parts), strict=True):
        for rank, share in enumerate(shares):
            assert share == batch[rank::world_size]


def test_training_drops_an_incomplete_batch_and_validation_keeps_it():
    assert [len(b) for b in PromptLoader(prompts(10), 4, drop_last=True)] == [4, 4]
    assert [len(b) for b in PromptLoader(prompts(10), 4)] == [4, 4, 2]


def test_validation_ranks_get_the_same_number_of_batches_even_empty_ones():
    loaders = [PromptLoader(prompts(9), 8, rank=r, world_size=4) for r in range(4)]
    assert {len(loader) for loader in loaders} == {2}
    assert [[len(b) for b in loader] for loader in loaders] == [[2, 1], [2, 0], [2, 0], [2, 0]]


@pytest.mark.parametrize("taken", range(9))
def test_a_state_saved_after_batch_n_makes_the_next_one_n_plus_1(taken):
    def make():
        return PromptLoader(prompts(13), 4, shuffle=True, seed=3, drop_last=True)

    def stream(loader, n):
        out = []
        while len(out) < n:
            for batch in loader:
                out.append([p.uid for p in batch])
                if len(out) == n:
                    break
        return out

    expected = stream(make(), 12)
    loader = make()
    assert stream(loader, taken) == expected[:taken]
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    iter(resumed)  # asking for an iterator is not taking a batch
    assert stream(resumed, 12 - taken) == expected[taken:]


def test_a_limited_epoch_starts_again_at_its_first_batch():
    loader = PromptLoader(prompts(12), 2, limit=2)
    for _ in range(3):
        batches = iter(loader)
        assert [[p.uid for p in next(batches)] for _ in range(2)] == [
            ["train/0", "train/1"],
            ["train/2", "train/3"],
        ]
    resumed = PromptLoader(prompts(12), 2, limit=2)
    resumed.load_state_dict(loader.state_dict())  # at the end of a limited epoch
    assert next(iter(resumed)).prompts[0].uid == "train/0"
    assert resumed.epoch == 3


def test_the_state_is_plain_ints():
    loader = PromptLoader(prompts(8), 2)
    next(iter(loader))
    assert loader.state_dict() == {"epoch": 0, "position": 1, "prompts": 8, "batch_size": 2}
    assert {type(v) for v in loader.state_dict().values()} == {int}


def test_a_state_of_other_data_starts_the_next_epoch_with_a_warning():
    loader = PromptLoader(prompts(8), 2, shuffle=True)
    next(iter(loader))
    other = PromptLoader(prompts(10), 2, shuffle=True)
    with pytest.warns(UserWarning, match="made with 8 prompts, 2 a batch; now there are 10, 2 a batch"):
        other.load_state_dict(loader.state_dict())
    assert len(uids(other)) == 5
    assert other.epoch == 1


@pytest.mark.parametrize(
    ("size", "world_size", "mini_batches", "n", "message"),
    [
        (10, 4, 1, 100, "data.prompts_per_step is 10, which 4 processes cannot share evenly. Use 8 or 12."),
        (3, 4, 1, 100, "data.prompts_per_step is 3, which 4 processes cannot share evenly. Use 4."),
        (6, 1, 4, 100, "data.prompts_per_step is 6, which 4 mini-batches cannot share evenly. Use 4 or 8."),
        (6, 2, 2, 9, "which 2 processes with 2 mini-batches each cannot share evenly. Use 4 or 8."),
        (16, 2, 1, 15, "but the training set has only 15 prompts. Use at most 14."),
        (16, 4, 1, 3, "but the training set has only 3 prompts. At least 4 prompts are needed."),
    ],
)
def test_sizes_that_do_not_fit_name_those_that_do(size, world_size, mini_batches, n, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        check_prompts_per_step(size, world_size=world_size, mini_batches=mini_batches, prompts=n)


def test_further_prompts_are_the_same_on_every_rank_and_leave_the_order_alone():
    def make(rank=0, world_size=1):
        return PromptLoader(prompts(16), 4, shuffle=True, seed=5, rank=rank, world_size=world_size, drop_last=True)

    expected, loaders = uids(make()), [make(), make(0, 2), make(1, 2)]
    asked = []
    for batches in zip(*loaders, strict=True):
        first = {p.uid for p in batches[0]}
        drawn = [[p.uid for p in loader.draw_further(5, first)] for loader in loaders]
        assert drawn[0] == drawn[1] == drawn[2]
        assert len(set(drawn[0]) - first) == 5
        assert [p.uid for p in loaders[0].draw_further(3, first | set(drawn[0][:2]))] == drawn[0][2:5]
        asked.append(drawn[0])
    assert len({tuple(a) for a in asked}) == 4  # another draw at every place
    assert uids(make()) == expected
    assert len(loaders[0].draw_further(99, set())) == 16


def test_further_prompts_without_shuffle_are_those_of_an_epoch():
    loader = PromptLoader(prompts(10), 2, drop_last=True, limit=2)
    next(iter(loader))
    assert {p.uid for p in loader.draw_further(99, set())} == {f"train/{i}" for i in range(4)}


def test_an_epoch_that_is_left_is_over():
    """A loader that gave a batch begins the next epoch; one that gave none begins the same."""
    loader = PromptLoader(prompts(12), 4, shuffle=True, seed=1)
    iter(loader)
    next(iter(loader))
    assert (loader.epoch, loader.position) == (0, 1)
    next(iter(loader))
    assert (loader.epoch, loader.position) == (1, 1)
    loader.load_state_dict(loader.state_dict())
    next(iter(loader))
    assert (loader.epoch, loader.position) == (1, 2)

"""Prompts that are read as training needs them: the same as those of a set, after a kill, and on several ranks."""

import json
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.curriculum import Curriculum
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.stream import PromptStream, check_streamed_run
from lgrpo_lightning.types import Prompt
from tests.test_datamodule import Kill, Recorder, fit, tasks, trainer


def encode(row: Any, number: int) -> Prompt | None:
    return None if row["prompt"] == "long" else Prompt(uid=str(number), text=row["prompt"], token_ids=(1,))


def stream(count: int = 23, **options: Any) -> PromptStream:
    rows = [{"prompt": "long" if n % 10 == 7 else str(n)} for n in range(count)]
    return PromptStream(lambda: iter(rows), encode, 4, **options)


def taken(loader: Any, batches: int) -> list[list[str]]:
    return [[p.uid for p in batch] for batch in islice(loader, batches)]


def test_it_equals_a_set() -> None:
    prompts = [p for n in range(23) if (p := encode({"prompt": "long" if n % 10 == 7 else str(n)}, n))]
    held = PromptLoader(prompts, 4, drop_last=True)
    assert taken(stream(), 12) == [batch for _ in range(3) for batch in taken(held, 99)][:12]


@pytest.mark.parametrize("buffer", [None, 1, 5, 100])
def test_a_resumed_stream_goes_on(buffer: int | None) -> None:
    whole = taken(stream(buffer=buffer, seed=3), 14)
    for place in range(14):
        first = stream(buffer=buffer, seed=3)
        begun = taken(first, place)
        first.preview(3)  # what is read ahead is not in the state
        state = first.state_dict()
        second = stream(buffer=buffer, seed=3)
        second.load_state_dict(json.loads(json.dumps(state)))
        assert begun + taken(second, 14 - place) == whole


def test_an_order_of_its_own_each_pass() -> None:
    whole = taken(stream(count=20, buffer=8, seed=3), 8)  # 18 prompts: 4 batches a pass
    passes = [[uid for batch in whole[i : i + 4] for uid in batch] for i in (0, 4)]
    assert passes[0] != passes[1]
    assert all(len(set(one)) == 16 for one in passes)
    assert whole != taken(stream(count=20, buffer=8, seed=4), 8)
    early = [int(uid) for uid in passes[0][:4]]
    assert all(uid < 8 + i for i, uid in enumerate(early))  # from the buffer


def test_ranks_share_every_batch() -> None:
    whole = taken(stream(buffer=6), 9)
    ranks = [taken(stream(buffer=6, rank=r, world_size=2), 9) for r in range(2)]
    assert [[*a, *b] for a, b in zip(*ranks, strict=True)] == [[*b[::2], *b[1::2]] for b in whole]
    assert all(not set(a) & set(b) for a, b in zip(*ranks, strict=True))


def test_what_is_announced_comes() -> None:
    one = stream(buffer=6, limit=3, rank=1, world_size=2)
    batches = iter(one)
    next(batches)
    announced = one.preview(7)
    assert [n for n, _ in announced] == [0, 0, 1, 1, 1, 2, 2]
    assert len(one.preview(7, epochs=1)) == 5
    assert [[p.uid for p in b] for b in islice(batches, 7)] == [[p.uid for p in b] for _, b in announced]


def test_further_prompts_are_the_next_ones() -> None:
    one, other = stream(), stream()
    batches, others = iter(one), iter(other)
    assert [p.uid for p in next(batches)] == ["0", "1", "2", "3"]
    assert [p.uid for p in one.draw_further(2, {"0", "1", "2", "3", "5"})] == ["4", "6"]
    state = one.state_dict()
    assert [p.uid for p in next(batches)] == ["8", "9", "10", "11"]
    other.load_state_dict(state)
    assert [p.uid for p in next(others)] == ["8", "9", "10", "11"]
    few = stream(count=4)
    next(iter(few))
    assert few.draw_further(1, {"0", "1", "2", "3"}) == []


@pytest.mark.parametrize(("count", "message"), [(0, "gives no prompts"), (3, "fewer than 4 prompts")])
def test_a_set_that_is_too_small(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taken(stream(count=count), 1)


def test_rows_are_not_kept() -> None:
    read = 0

    def rows() -> Any:
        nonlocal read
        while True:
            read += 1
            yield {"prompt": "a"}

    one = iter(PromptStream(rows, encode, 4, buffer=50))
    for batch in range(1, 100):
        next(one)
        assert read <= 50 + 4 * batch


# ------------------------------------------------------------------------------------------ runs


def sums(folder: Path, count: int = 22) -> str:
    rows = ({"prompt": f"{n}+1=", "answer": n + 1} for n in range(count))
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "sums.jsonl")


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 3}])
@pytest.mark.parametrize("killed", [2, 6])
def test_a_killed_run_goes_on_with_the_next_batch(tmp_path: Path, options: Any, killed: int) -> None:
    options = {"max_steps": 9, "max_epochs": -1, **options}

    def data(**changes: Any) -> Any:
        return tasks(train=PromptFile(sums(tmp_path), streaming=True, shuffle_buffer=9), **changes)

    expected = fit(tmp_path, data(), **options)["train"]
    assert len(expected) == 9
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    first, second = Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path, saver, Kill(killed), **options).fit(first, datamodule=data())
    point = str(tmp_path / f"step={killed}.ckpt")
    trainer(tmp_path, **options).fit(second, datamodule=data(), ckpt_path=point)
    assert first.seen["train"] + second.seen["train"] == expected
    with pytest.raises(ValueError, match=r"made with streaming: true of data.train"):
        trainer(tmp_path, **options).fit(Recorder(), datamodule=tasks(train=sums(tmp_path)), ckpt_path=point)


def test_a_streamed_run_equals_one_that_holds_its_prompts(tmp_path: Path) -> None:
    seen = [
        fit(
            tmp_path,
            tasks(train=PromptFile(sums(tmp_path), streaming=streaming), shuffle=False),
            max_steps=12,
            max_epochs=-1,
        )["train"]
        for streaming in (False, True)
    ]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 2}, r"Set trainer.max_steps or model.updates.max_rollouts"),
        ({"max_steps": 3, "limit_train_batches": 0.5}, "Give limit_train_batches as a number"),
        ({"max_steps": 3, "overfit_batches": 2}, "overfit_batches"),
        ({"max_steps": 3, "val": True}, r"val_check_interval is 1.0 of one. Set it to a number"),
    ],
)
def test_limits_that_need_a_length(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = sums(tmp_path)
    validation = path if options.pop("val", False) else None
    data = tasks(train=PromptFile(path, streaming=True), validation=validation)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, data, **options)


@pytest.mark.parametrize(("epochs", "ends"), [(None, False), (-1, False), (2, True)])
def test_epochs_end_a_run_where_their_length_is_given(epochs: int | None, ends: bool) -> None:
    limits = SimpleNamespace(
        limit_train_batches=5, val_check_interval=1, overfit_batches=0, max_steps=-1, max_epochs=epochs, callbacks=[],
        lightning_module=None,
    )  # fmt: skip
    with nullcontext() if ends else pytest.raises(ValueError, match="nothing else ends the run"):
        check_streamed_run(limits, validates=False)


def test_what_needs_a_whole_set(tmp_path: Path) -> None:
    source = PromptFile(sums(tmp_path), streaming=True)
    with pytest.raises(ValueError, match=r"data.validation is read whole: leave streaming out"):
        tasks(validation={"sums": source})
    with pytest.raises(ValueError, match=r"data.curriculum draws from all prompts"):
        tasks(train=source, curriculum=Curriculum())
    with pytest.raises(ValueError, match="infer_types reads a whole file"):
        PromptFile("a.csv", streaming=True, infer_types=True)
    with pytest.raises(ValueError, match="shuffle_buffer is 0"):
        PromptFile("a.csv", streaming=True, shuffle_buffer=0)


class Endless(PromptSource):
    """A source of one's own."""

    streaming = True

    def rows(self) -> Any:
        yield from ({"prompt": f"{n}+1=", "answer": n} for n in range(9))
        yield "no row"


def test_a_row_that_is_wrong_is_named_when_it_is_reached(tmp_path: Path) -> None:
    assert len(fit(tmp_path, tasks(train=Endless(), shuffle=False), max_steps=2, max_epochs=-1)["train"]) == 2
    with pytest.raises(ValueError, match=r"Endless, row 9 \(from 0\) is a str"):
        fit(tmp_path, tasks(train=Endless(), shuffle=False), max_steps=3, max_epochs=-1)
    with pytest.raises(ValueError, match=r"sums.jsonl, row \d \(from 0\): .* a column 'missing'"):
        fit(
            tmp_path, tasks(train=PromptFile(sums(tmp_path), streaming=True)), Recorder(columns=("missing",)),
            max_steps=1, max_epochs=-1,
        )  # fmt: skip

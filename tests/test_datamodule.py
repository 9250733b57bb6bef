import json
import pathlib
import types

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.training import Updates
from lgrpo_lightning.types import Prompt
from tests.several import ranks
from tools.make_arithmetic import build_tokenizer


class Recorder(LightningModule):
    """Takes one optimizer step a batch and writes down which prompts it was given."""

    def __init__(self, *, columns=(), mini_batches=1, context_length=256, max_new_tokens=64):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.tokenizer = build_tokenizer()
        self.context_length = context_length
        self.sampling = Sampling(max_new_tokens=max_new_tokens)
        self.reward_model = types.SimpleNamespace(columns=columns, models=[], check_row=None)
        self.updates = Updates(mini_batches=mini_batches)
        self.seen = {"train": [], "validation": [], "test": [], "predict": []}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.record("train", batch)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.weight.sum())
        optimizer.step()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.record("validation", batch)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.record("test", batch)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.record("predict", batch)

    def record(self, phase, batch):
        assert type(batch) is list
        assert all(isinstance(p, Prompt) for p in batch)
        self.seen[phase].append([p.uid for p in batch])


class Kill(Callback):
    """Ends the run with an error when batch ``n`` of it starts."""

    def __init__(self, n):
        self.n = n

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(module.seen["train"]) == self.n:
            raise RuntimeError("killed")


def trainer(tmp_path, *callbacks, **options):
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        **options,
    )


def tasks(**options):
    defaults = {"train": ArithmeticTasks(count=22), "prompts_per_step": 4, "seed": 7}
    return PromptDataModule(**{**defaults, **options})


def fit(tmp_path, data=None, module=None, **options):
    module = module or Recorder()
    trainer(tmp_path, **{"max_epochs": 1, **options}).fit(module, datamodule=data or tasks())
    return module.seen


def stub(data, *, stage="fit", world_size=1, rank=0, **options):
    """The data module after ``setup`` in a process of a larger run."""
    data.trainer = types.SimpleNamespace(
        lightning_module=Recorder(**options),
        world_size=world_size,
        global_rank=rank,
        limit_train_batches=1.0,
        overfit_batches=0.0,
        strategy=SingleDeviceStrategy(),
    )
    data.setup(stage)
    return data


@pytest.mark.parametrize("limit", [1.0, 3, 0.6], ids=["whole epochs", "3 batches", "60 percent"])
@pytest.mark.parametrize("killed", [1, 2, 3, 4, 5, 6, 8, 10])
@pytest.mark.parametrize("validating", [False, True], ids=["", "validating"])
def test_a_killed_run_goes_on_with_the_next_batch(tmp_path, limit, killed, validating):
    options = {"max_steps": 11, "max_epochs": -1, "limit_train_batches": limit}
    options |= {"val_check_interval": 1} if validating else {}

    def data():
        return tasks(validation=ArithmeticTasks(count=3) if validating else None)

    expected = fit(tmp_path, data(), **options)["train"]
    assert len(expected) == 11
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    first = Recorder()
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path, saver, Kill(killed), **options).fit(first, datamodule=data())
    second = Recorder()
    checkpoint = str(tmp_path / f"step={killed}.ckpt")
    trainer(tmp_path, **options).fit(second, datamodule=data(), ckpt_path=checkpoint)
    assert first.seen["train"] + second.seen["train"] == expected


@pytest.mark.parametrize("limit", [1.0, 3])
def test_a_checkpoint_at_the_end_of_an_epoch_goes_on_with_the_next(tmp_path, limit):
    options = {"limit_train_batches": limit}
    expected = fit(tmp_path, max_epochs=4, **options)["train"]
    saver = ModelCheckpoint(tmp_path, every_n_epochs=1, save_on_train_epoch_end=True, filename="end")
    first, second = Recorder(), Recorder()
    trainer(tmp_path, saver, max_epochs=2, **options).fit(first, datamodule=tasks())
    trainer(tmp_path, max_epochs=4, **options).fit(second, datamodule=tasks(), ckpt_path=str(tmp_path / "end.ckpt"))
    assert first.seen["train"] + second.seen["train"] == expected


def test_the_saved_state_is_plain_and_loads_with_weights_only(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(Recorder(), datamodule=tasks())
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [
        {"epoch": 0, "position": 2, "prompts": 22, "batch_size": 4}
    ]


def test_epochs_shuffle_anew_and_leave_the_incomplete_batch_out(tmp_path):
    seen = fit(tmp_path, max_epochs=2)["train"]
    first, second = seen[:5], seen[5:]
    assert [len(b) for b in seen] == [4] * 10
    assert len({uid for b in first for uid in b}) == 20
    assert first != second


def test_without_shuffling_the_order_is_the_sets(tmp_path):
    seen = fit(tmp_path, tasks(shuffle=False), max_epochs=2)["train"]
    assert seen == 2 * [[f"train/{i}" for i in range(4 * b, 4 * b + 4)] for b in range(5)]


def test_overfit_batches_repeats_the_same_batches(tmp_path):
    seen = fit(tmp_path, max_epochs=3, overfit_batches=2)["train"]
    assert seen == 3 * [[f"train/{i}" for i in range(4 * b, 4 * b + 4)] for b in range(2)]


def test_fast_dev_run_takes_one_batch(tmp_path):
    seen = fit(tmp_path, tasks(validation=ArithmeticTasks(count=9)), fast_dev_run=True)
    assert (len(seen["train"]), len(seen["validation"])) == (1, 1)


def test_the_runs_seed_decides_the_order_unless_given(tmp_path, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    unseeded = fit(tmp_path, tasks(seed=None))
    assert unseeded == fit(tmp_path, tasks(seed=0))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored after the test
    seed_everything(5)
    assert fit(tmp_path, tasks(seed=None)) == fit(tmp_path, tasks(seed=5))
    assert fit(tmp_path, tasks(seed=None)) != unseeded


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_every_precision_gives_a_list_of_prompts(tmp_path, precision):
    assert len(fit(tmp_path, precision=precision)["train"]) == 5


def test_validation_sets_come_in_the_order_of_their_names(tmp_path):
    sets = {"hard": ArithmeticTasks(count=3, terms=6), "easy": ArithmeticTasks(count=2, terms=2)}
    data = tasks(validation=sets, validation_batch_size=2)
    assert data.validation_names == ("hard", "easy")
    assert fit(tmp_path, data)["validation"] == [["hard/0", "hard/1"], ["hard/2"], ["easy/0", "easy/1"]]


def test_one_set_has_the_name_of_its_use(tmp_path):
    data = PromptDataModule(
        validation=ArithmeticTasks(count=2), test=ArithmeticTasks(count=2), predict=ArithmeticTasks(count=2)
    )
    module, run = Recorder(), trainer(tmp_path)
    run.validate(module, datamodule=data, verbose=False)
    run.test(module, datamodule=data, verbose=False)
    run.predict(module, datamodule=data)
    for phase in ("validation", "test", "predict"):
        assert module.seen[phase] == [[f"{phase}/0", f"{phase}/1"]]
    assert (data.validation_names, data.test_names) == (("validation",), ("test",))


def test_a_fit_needs_no_validation_set(tmp_path):
    data = tasks()
    assert data.validation_names == ()
    assert fit(tmp_path, data)["validation"] == []


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_take_every_prompt_once(world_size):
    def batches(world_size, rank):
        data = tasks(validation=ArithmeticTasks(count=9), validation_batch_size=8)
        data = stub(data, world_size=world_size, rank=rank)
        loaders = [data.train_dataloader(), *data.val_dataloader()]
        return [[p.uid for p in batch] for loader in loaders for batch in loader]

    alone = batches(1, 0)
    ranks = [batches(world_size, r) for r in range(world_size)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert [share == whole[r::world_size] for r, share in enumerate(shares)] == [True] * world_size


def be_a_process(folder):
    here, module = pathlib.Path(folder), Recorder()
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, default_root_dir=here, num_sanity_val_steps=0,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=validated_tasks())
    (here / f"seen{trainer.global_rank}.json").write_text(json.dumps(module.seen))


def validated_tasks():
    return tasks(validation=ArithmeticTasks(count=9), validation_batch_size=8)


@pytest.mark.long
def test_two_real_processes_share_the_batches_of_one(tmp_path):
    ranks(2, be_a_process, str(tmp_path))
    seen = [json.loads((tmp_path / f"seen{r}.json").read_text()) for r in range(2)]
    alone = fit(tmp_path, validated_tasks(), max_epochs=2)
    for phase in ("train", "validation"):
        for whole, *shares in zip(alone[phase], seen[0][phase], seen[1][phase], strict=True):
            assert shares == [whole[0::2], whole[1::2]]


def test_the_columns_reach_the_prompts():
    prompts = stub(tasks()).prompts["train"]["train"]
    assert set(prompts[0].columns) == {"answer", "solution"}
    assert prompts[3].uid == "train/3"


def test_a_path_means_a_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "answer": 2}))
    data = stub(PromptDataModule(train=str(path), validation={"a": path}, prompts_per_step=1))
    assert isinstance(data.sources["train"]["train"], PromptFile)
    assert [p.text for p in data.prompts["validation"]["a"]] == ["1+1="]


def test_long_prompts_leave_room_for_the_completion():
    prompts = ArithmeticTasks(count=30, terms=4)  # 8 to 12 characters
    longest = max(len(r["prompt"]) for r in prompts.rows())
    fits = {"context_length": longest + 20, "max_new_tokens": 20}
    stub(tasks(train=prompts), **fits)
    with pytest.raises(ValueError, match=f"has {longest} tokens; at most {longest - 1} are possible"):
        stub(tasks(train=prompts), **{**fits, "max_new_tokens": 21})
    with pytest.raises(ValueError, match=f"at most {longest - 1} are possible"):
        stub(tasks(train=prompts, max_prompt_length=longest - 1), **fits)
    with pytest.warns(UserWarning, match=r"ArithmeticTasks: \d+ of 30 prompts left out: over"):
        stub(tasks(train=prompts, max_prompt_length=longest - 1, long_prompts="drop"), **fits)
    with pytest.raises(ValueError, match=r"sampling.max_new_tokens is 20, but the model's context is 20"):
        stub(tasks(train=prompts), context_length=20, max_new_tokens=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts_per_step": 0}, "data.prompts_per_step is 0; it must be at least 1"),
        ({"validation_batch_size": 0}, "data.validation_batch_size is 0; it must be at least 1"),
        ({"seed": -1}, "data.seed is -1; it must be at least 0, or null"),
        ({"max_prompt_length": 0}, "data.max_prompt_length is 0; it must be at least 1, or null"),
        ({"long_prompts": "cut"}, "data.long_prompts is 'cut'; it must be 'error' or 'drop'"),
        ({"validation": {"a b": "x.jsonl"}}, "data.validation: 'a b' cannot name a set"),
        (
            {"validation": {"class_path": "Arith"}},
            "data.validation: there is no prompt source 'Arith'. There are",
        ),
        (
            {"train": "ArithmeticTask"},
            "data.train: 'ArithmeticTask' is neither .* Did you mean 'ArithmeticTasks'",
        ),
    ],
)
def test_bad_arguments_name_the_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptDataModule(**arguments)


def test_a_set_is_a_path_or_a_source():
    with pytest.raises(ValueError, match=r"data.train: 3 is neither a path nor a prompt source"):
        PromptDataModule(train=3)
    with pytest.raises(ValueError, match=r"data.validation.a: \[\] is neither a path nor a prompt source"):
        PromptDataModule(validation={"a": []})


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda: PromptDataModule(), {}, "data.train is not set, and `lgrpo fit` needs it"),
        (lambda: tasks(), {"stage": "test"}, "data.test is not set, and `lgrpo test` needs it"),
        (lambda: tasks(), {"stage": "validate"}, "data.validation is not set, and `lgrpo validate` needs it"),
        (
            lambda: tasks(),
            {"columns": ("solution", "level")},
            "ArithmeticTasks, row 0 .*need a column 'level'",
        ),
        (lambda: tasks(), {"world_size": 3}, "which 3 processes cannot share evenly. Use 3 or 6"),
        (lambda: tasks(), {"mini_batches": 3}, "which 3 mini-batches cannot share evenly. Use 3 or 6"),
        (lambda: tasks(prompts_per_step=24), {}, "has only 22 prompts. Use at most 22"),
    ],
)
def test_what_does_not_fit_the_run_stops_it_before_the_first_step(data, options, message):
    with pytest.raises(ValueError, match=message):
        stub(data(), **options)


def test_setup_needs_a_trainer():
    with pytest.raises(ValueError, match="PromptDataModule needs a trainer"):
        tasks().setup("fit")


def test_the_command_line_takes_class_names_and_paths():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PromptDataModule, "data")

    def parsed(*arguments):
        return parser.instantiate(parser.parse_args(arguments)).data.sources

    sources = parsed("--data.train=ArithmeticTasks", "--data.train.terms=3", "--data.validation=v.jsonl")
    assert (type(sources["train"]["train"]), sources["train"]["train"].terms) == (ArithmeticTasks, 3)
    assert sources["validation"]["validation"].path == "v.jsonl"
    sources = parsed('--data.validation={"e": {"class_path": "ArithmeticTasks"}, "f": "v.csv"}')
    assert [type(s) for s in sources["validation"].values()] == [ArithmeticTasks, PromptFile]


def test_reloaded_loaders_go_on_with_new_orders(tmp_path):
    expected = fit(tmp_path, max_epochs=3)
    assert fit(tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1) == expected


def test_fitting_again_starts_again(tmp_path):
    data = tasks()
    assert fit(tmp_path, data) == fit(tmp_path, data)

"""Estimates of memory and time: against a count by hand, and against what was measured on a GPU and on CPUs."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.training.estimate import (
    Plan,
    build_policy,
    count_running,
    estimate_memory,
    estimate_sampling_time,
    estimate_time,
)
from lgrpo_lightning.training.hardware import Hardware, describe_gpu
from tests.docs.markdown import ROOT
from tests.gpu.models import config

RAW = ROOT / "docs" / "results" / "raw"
GIB = 2**30
CPU = Hardware(
    name="CPU", memory=8 * GIB, flops={2: 1e11, 4: 1e11}, bandwidth=15e9, layer_seconds=2e-3, decode_seconds=4e-4,
    program=0.6 * GIB,
)  # fmt: skip


def write_llama(folder: Path, **entries: Any) -> str:
    """The folder of a Llama without weights: H 8, I 12, 2 layers, 2 heads of 4 and 1 of keys, 10 ids, untied."""
    from transformers import LlamaConfig

    sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    LlamaConfig(**sizes | heads | {"tie_word_embeddings": False} | entries).save_pretrained(folder)
    return str(folder)


def test_parts_are_those_counted_by_hand(tmp_path: Path) -> None:
    policy = build_policy(PolicyConfig(path=write_llama(tmp_path), layout="padded"))
    plan = Plan(policy=policy, prompt=3, completion=5, groups=2, group_size=2)
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12 + 2 * 8  # q, k and v, o, MLP, two norms
    numbers = 2 * 80 + 2 * layer + 8  # embeddings, head, layers, last norm
    assert plan.shape.numbers == numbers == sum(p.numel() for p in policy.parameters())
    assert plan.shape.linear == 2 * (layer - 16)
    phases = estimate_memory(plan, CPU)
    assert phases["training"]["weights"] == 4 * numbers
    assert phases["training"]["optimizer state"] == 2 * 4 * numbers
    assert phases["optimizer step"]["gradients"] == 4 * numbers
    outputs = 2 * (8 + 4 + 4 + 8 + 12 + 12 + 8)
    assert phases["training"]["activations"] == 4 * 8 * (2 * 4 * outputs + 8 * 8 * 2)  # four rows of eight tokens
    assert phases["training"]["logits"] == 4 * 5 * 10 * 4
    assert phases["sampling"]["sampler's cache"] == 4 * 8 * (2 * 2 * 1 * 4 * 4)  # rows, tokens, K and V, layers, bytes
    assert phases["sampling"]["sampler's logits"] == 4 * 10 * 16


def test_a_change_of_passes_shares_the_model(tmp_path: Path) -> None:
    config = PolicyConfig(path=write_llama(tmp_path), layout="padded")
    policy = build_policy(config)
    smaller = build_policy(replace(config, micro_batch_tokens=8, gradient_checkpointing=True), policy)
    assert smaller.model is policy.model
    given: dict[str, Any] = {"prompt": 3, "completion": 5, "groups": 2, "group_size": 2}
    assert len(Plan(policy=smaller, **given).passes) == 4
    assert len(Plan(policy=policy, **given).passes) == 1
    assert build_policy(replace(config, lora=Lora(rank=2)), policy).model is not policy.model


def test_shards_hold_their_share_and_an_adapter_trains_little(tmp_path: Path) -> None:
    path = write_llama(tmp_path)
    whole, lora = (build_policy(PolicyConfig(path=path, lora=given)) for given in (None, Lora(rank=2)))
    given: dict[str, Any] = {"prompt": 3, "completion": 5, "groups": 2, "group_size": 2}
    alone = estimate_memory(Plan(policy=whole, **given), CPU)["optimizer step"]
    sharded = estimate_memory(Plan(policy=whole, ranks=4, sharded=True, **given), CPU)["optimizer step"]
    for part in ("weights", "gradients", "optimizer state"):
        assert sharded[part] == alone[part] / 4
    ddp = estimate_memory(Plan(policy=whole, ranks=4, **given), CPU)["optimizer step"]
    assert ddp["buckets of ddp"] == alone["gradients"]
    adapted = estimate_memory(Plan(policy=lora, **given), CPU)["optimizer step"]
    per_layer = sum(2 * (i + o) for i, o in ((8, 8), (8, 4), (8, 4), (8, 8), (8, 12), (8, 12), (12, 8)))
    assert adapted["gradients"] == 4 * 2 * per_layer
    kept = [Plan(policy=policy, **given).kept_bytes for policy in (whole, lora)]
    assert kept[1] - kept[0] == 2 * 4 * (2 * 7 * 2)  # what seven adapters of two layers make of a token, of rank 2


def test_checkpointing_keeps_every_layers_input_and_one_layer(tmp_path: Path) -> None:
    config = PolicyConfig(path=write_llama(tmp_path), layout="padded", gradient_checkpointing=True)
    plan = Plan(policy=build_policy(config), prompt=3, completion=5, groups=1, group_size=1)
    one_layer = 2 * 4 * (8 + 4 + 4 + 8 + 12 + 12 + 8) + 8 * 8
    assert estimate_memory(plan, CPU)["training"]["activations"] == 8 * (one_layer + 4 * 8 * 2)


def test_vllm_takes_its_share_of_the_gpu_and_is_told_where_it_holds_no_completion(tmp_path: Path) -> None:
    policy = build_policy(PolicyConfig(path=write_llama(tmp_path), dtype="bfloat16"))
    gpu = describe_gpu("H100", 80)
    given: dict[str, Any] = {"policy": policy, "prompt": 3, "completion": 5, "groups": 2, "group_size": 2}
    plan = Plan(**given, engine=EngineOptions(gpu_memory_utilization=0.25))
    for phase in ("sampling", "training"):
        parts = estimate_memory(plan, gpu)[phase]
        assert parts["vLLM's weights"] + parts["vLLM's cache"] == pytest.approx(20 * GIB)
    asleep = Plan(**given, engine=EngineOptions(), sampler={"sleep_level": 2})
    assert "vLLM's cache" not in estimate_memory(asleep, gpu)["training"]
    cached = EngineOptions(kv_cache_gb=100 / GIB)  # a completion of eight tokens takes 256 bytes
    assert count_running(Plan(**given, engine=cached), gpu) == 0
    served = Plan(**given, engine=EngineOptions(), sampler={"server": {"urls": ["http://127.0.0.1:8000"]}})
    assert set(estimate_memory(served, gpu)["sampling"]) == {"weights", "optimizer state", "program"}


def read_rows(step: str) -> list[dict[str, Any]]:
    """The rows of a step that were measured on a GPU."""
    lines = [json.loads(line) for name in ("gpu-1", "gpu-2") for line in (RAW / f"{name}.jsonl").open()]
    return [row for row in lines if row["step"].startswith(step) and "P" in row]


@cache
def build_qwen(folder: Path, size: str, layout: Any) -> Policy:
    """A model of the GPU's measurements."""
    config(size).save_pretrained(folder / size)
    return build_policy(PolicyConfig(path=str(folder / size), dtype="bfloat16", layout=layout, verify=False))


def plan_row(row: dict[str, Any], folder: Path, layout: Any = "auto") -> Plan:
    """What was measured in a row."""
    group = row.get("G", 8)
    return Plan(
        policy=build_qwen(folder, row["model"], layout), prompt=row["P"], completion=row["C"], group_size=group,
        groups=row.get("rows", group) // group, sampler={"max_batch_tokens": 10**9},
    )  # fmt: skip


def count_measured(parts: dict[str, float]) -> float:
    """GiB of what was there: no optimizer, and only what the allocator counts."""
    return (sum(parts.values()) - parts["program"] - parts["optimizer state"]) / GIB


def test_memory_and_time_are_those_measured_on_a_gpu(tmp_path: Path) -> None:
    gpu = describe_gpu("H200", None)
    for row in read_rows("layouts"):
        for layout in ("padded", "tree"):
            plan = plan_row(row, tmp_path, layout)
            assert len(plan.passes) == row[layout]["passes"]
            gib = count_measured(estimate_memory(plan, gpu)["training"])
            assert gib == pytest.approx(row[layout]["peak_gib"], rel=0.1), (row["model"], layout)
            ratio = estimate_time(plan, gpu)["training"] / row[layout]["seconds"]
            assert 1 / 1.5 < ratio < 1.5, (row["model"], layout, ratio)
    for row in read_rows("sampling"):
        plan = plan_row(row, tmp_path)
        assert count_measured(estimate_memory(plan, gpu)["sampling"]) == pytest.approx(row["peak_gib"], rel=0.1)
        assert 1 / 1.5 < estimate_sampling_time(plan, gpu) / row["seconds"] < 1.5


@pytest.mark.parametrize(
    ("prompt", "completion", "group", "prompts", "peak"),
    [(192, 96, 6, 3, 1647), (256, 64, 8, 4, 1896), (64, 64, 8, 4, 1761)],
)
def test_memory_is_that_measured_on_a_cpu(
    tmp_path: Path, prompt: int, completion: int, group: int, prompts: int, peak: int
) -> None:
    sizes = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6}
    path = write_llama(tmp_path, **sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    policy = build_policy(PolicyConfig(path=path))
    plan = Plan(policy=policy, prompt=prompt, completion=completion, groups=prompts, group_size=group)
    most = max(sum(parts.values()) for parts in estimate_memory(plan, CPU).values())
    assert most / 2**20 == pytest.approx(peak, rel=0.2)


# --------------------------------------------------------------------------------------------- the command


def estimate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(status, what was printed, errors) of the command on the quickstart."""
    status = cli.main(["estimate", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", *words])
    return status, *capsys.readouterr()


def test_the_command_prints_parts_and_stages(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = estimate(capsys, "--prompt_length=16")
    assert status == 0
    for word in ("weights", "optimizer state", "activations", "logits", "sampler's cache", "log-probs", "not known"):
        assert word in out
    assert "804,352 weights; one device, 1 x CPU" in out
    assert "reference" not in out


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.objective.kl_coef=0.1"],
        ["--model.reward_model=TeacherLogprobs", "--model.reward_model.weights=reference",
         "--model.reward_model.context={prompt} {answer}"],
    ],
)  # fmt: skip
def test_a_reference_is_counted_whoever_reads_it(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, errors = estimate(capsys, "--prompt_length=16", *flags)
    assert status == 0, errors
    assert "reference" in out


def test_the_command_says_what_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = config("1.5B")
    shape.num_hidden_layers, shape.layer_types = 4, shape.layer_types[:4]
    shape.save_pretrained(tmp_path / "model")
    more = {"model": {"policy": {"path": str(tmp_path / "model"), "layout": "padded"}}}
    more["trainer"] = {"accelerator": "auto", "precision": "bf16-mixed"}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    flags = (f"--config={tmp_path / 'more.yaml'}", "--gpus=8", "--gpu=H100", "--memory=8")
    status, out, errors = estimate(capsys, *flags, "--prompt_length=1024", "--completion_length=1024")
    assert status == 1, errors
    lines = out[out.index("It does not fit: training takes") :].splitlines()[1:]
    assert [line.split("--", 1)[1] for line in lines] == [
        "model.policy.micro_batch_tokens=2048",
        "model.policy.gradient_checkpointing=true",
        "trainer.strategy=fsdp2",
        "model.policy.lora='{\"rank\": 16}'",
        "model.policy.micro_batch_tokens=2048 --model.policy.gradient_checkpointing=true --trainer.strategy=fsdp2",
        "model.sampler.max_batch_tokens=16384",
    ]
    assert lines[4].split()[1] == "fits"
    again = estimate(capsys, *flags, "--prompt_length=1024", *lines[4].split()[2:])
    assert again[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus=8", "--gpu=H9000"], "--gpu is 'H9000', of which no data sheet is here. Possible are H200, H100"),
        (["--gpu=H100"], "Say how many GPUs the run has, such as --gpus 8"),
        (["--gpus=0"], "--gpus is 0; it must be above 0"),
        (["--model.policy.path=./nowhere"], "policy.path is './nowhere': there is no such folder"),
        (["--trainer.precision=16-true"], "trainer.precision is '16-true'"),
        (["--model.groups=3"], "model has no option 'groups'"),
    ],
)
def test_mistakes_are_told_plainly(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    status, _, errors = estimate(capsys, *flags)
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors

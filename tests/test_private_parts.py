"""Private parts of other libraries are used in one file, or stand in this list with their reason."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "lgrpo_lightning"
LIBRARIES = ("lightning", "torch", "transformers", "peft", "jsonargparse", "vllm", "datasets")
INTERNALS = "distributed/lightning_internals.py"
STAY = {  # Lightning 2.6.6, torch 2.13, transformers 5.19, jsonargparse 4.53, vLLM 0.32
    "callbacks/last_checkpoint.py": {
        "_find_last_checkpoints": "what ckpt_path='last' stands for; ModelCheckpoint has no public hook for it",
        "_last_checkpoint_saved": "likewise",
    },
    "callbacks/progress.py": {
        "_add_task": "RichProgressBar draws one bar an epoch, this one a bar a run",
        "_update": "likewise",
        "_update_metrics": "likewise",
    },
    "commands/run.py": {
        "_actions": "the keys that exist, for 'did you mean'",
        "_get": "the options of the subcommand before classes are made",
        "_parse_ckpt_path": "LightningCLI would read all of a checkpoint to look for options",
        "_parser": "the parser of the subcommand, which writes its configuration",
        "_subcommand_parsers": "likewise",
    },
    "distributed/fsdp2.py": {
        "_configure_launcher": "called as the Trainer is made; the parser hides what __init__ raises",
        "_data_parallel_size": "all ranks of all nodes shard; 'auto' means those of one node",
        "_process_group_backend": "gloo beside nccl, for shards in CPU memory",
    },
    "distributed/sharded_checkpoint.py": {"_load_state_dict": "load() gives nothing back for an empty state"},
    "distributed/sharded_reading.py": {"_EmptyStateDictLoadPlanner": "likewise"},
    "distributed/sharding.py": {"_no_split_modules": "the decoder layers of an architecture"},
    "policy/compiled_layers.py": {
        "_can_compile_fullgraph": "what transformers says of its own models",
        "_no_split_modules": "the decoder layers of an architecture",
    },
    "policy/choice.py": {
        "_attn_implementation": "the attention in use; public only as an argument of from_pretrained",
        "_supports_attention_backend": "whether the attention interface is used",
        "_supports_sdpa": "whether sdpa is there",
    },
    "policy/export.py": {"_hf_peft_config_loaded": "save_pretrained writes the adapter or the merged weights"},
    "policy/flex_attention.py": {
        "_dynamo": "the limit of recompilations has no public name",
        "_inductor": "the compiler behind a backend that counts kernels",
    },
    "policy/loading.py": {
        "_supports_attention_backend": "whether the attention interface is used, before loading",
        "_supports_sdpa": "whether sdpa is there, before loading",
    },
    "policy/quantization.py": {
        "__class__": "layers that bitsandbytes made; a forward set on them would not survive a copy"
    },
    "policy/packed_layers.py": {
        "_linear_pointwise": "the product with packed weights; torch.compile makes it and there is no public name",
        "_reorder_linear_weight": "likewise",
    },
    "policy/policy.py": {"_apply": "buffers keep their type when weights are cast"},
    "samplers/vllm/engine.py": {"_WORLD": "vLLM's public clean-up destroys the trainer's process groups, too"},
}
"""File → private name → why it stays there."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_of(tree: ast.AST) -> Iterator[str]:
    """The private names that code defines itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr if by_self(node) else ""


def by_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def used(tree: ast.AST, own: list[str]) -> Iterator[str]:
    """The private names of others that code reads, sets, imports or overrides."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            if modules[0].partition(".")[0] in LIBRARIES:
                parts = [*".".join(modules).split("."), *(a.name for a in node.names)]
                yield from {p.rpartition(".")[2] for p in parts if private(p.rpartition(".")[2])}
        elif isinstance(node, ast.Attribute) and private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in sys.stdlib_module_names:
                continue
            of_base = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            if own.count(node.attr) <= of_base:  # a name that its own override alone defines is the library's
                yield node.attr
        elif isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if private(str(name)) and name not in own:
                yield str(name)


def overridden(file: str) -> Iterator[str]:
    """The private names of libraries that classes of a file define anew, or set on themselves."""
    module = import_module("lgrpo_lightning." + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    for cls in vars(module).values():
        if isinstance(cls, type) and cls.__module__ == module.__name__:
            bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
            made: list[Any] = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
            inits = {name for init in made for name in init.__code__.co_names}
            theirs = {name for base in bases for name in vars(base)} | inits
            mine = {*vars(cls), *(n for n in names_of(ast.parse((PACKAGE / file).read_text())))}
            yield from {name for name in mine & theirs if private(name) and name not in ("_abc_impl", "_backward_cls")}


def test_every_private_part_is_listed() -> None:
    trees = {f.relative_to(PACKAGE).as_posix(): ast.parse(f.read_text()) for f in PACKAGE.rglob("*.py")}
    own = [name for tree in trees.values() for name in names_of(tree)]
    found = {file: {*used(tree, own), *overridden(file)} for file, tree in trees.items() if file != INTERNALS}
    assert {file: names for file, names in found.items() if names} == {f: set(n) for f, n in STAY.items()}

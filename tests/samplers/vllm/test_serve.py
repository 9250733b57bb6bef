"""`lgrpo serve`."""

import socket
from pathlib import Path

import pytest

from lgrpo_lightning.commands import serve
from tests.samplers.vllm.engines import needs_vllm


def test_others_may_not_come_in_without_a_key() -> None:
    with pytest.raises(ValueError, match=r"--host 0.0.0.0 lets other machines in.*VLLM_API_KEY"):
        serve.check_address("0.0.0.0", 8000, key=None)
    serve.check_address("127.0.0.1", 0, key=None)
    serve.check_address("localhost", 0, key=None)
    serve.check_address("0.0.0.0", 0, key="secret")


def test_a_taken_port(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert serve.main(["serve", "--config", str(tmp_path / "x.yaml"), "--port", str(port)]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["data: {}", "[]", ""])
def test_not_the_configuration_of_a_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match="has no part 'model'"):
        serve.load_run(str(tmp_path / "x.yaml"))


def test_flags() -> None:
    assert serve.flag("enable_prefix_caching", False) == ["--no-enable-prefix-caching"]
    assert serve.flag("hf_overrides", {"a": 1}) == ["--hf-overrides", '{"a": 1}']


@needs_vllm
def test_the_servers_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model:\n  policy: {path: 'lgrpo:arithmetic'}\n"
        "  sampler: {class_path: VLLMSampler, init_args: {entropy_top: 50,"
        " engine: {max_model_len: 128, dtype: bfloat16}}}\n"
    )
    argv = [
        "serve",
        f"--config={tmp_path / 'x.yaml'}",
        "--port=0",
        "--dry_run",
        "--",
        "--api-server-count",
        "2",
    ]
    assert serve.main(argv) == 0
    shown = capsys.readouterr().out
    for part in ("--max-model-len 128", "--dtype bfloat16", "--host 127.0.0.1", "--api-server-count 2",
                 "--logprobs-mode processed_logprobs", "--max-logprobs 50", "RequireKey",
                 "WeightReceiver"):  # fmt: skip
        assert part in shown

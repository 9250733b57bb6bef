"""`lgrpo serve`."""

import socket
from pathlib import Path

import pytest

from lgrpo_lightning import cli
from lgrpo_lightning.commands import serve
from lgrpo_lightning.samplers.vllm.key import find_key, make_key
from lgrpo_lightning.samplers.vllm.options import ServerOptions
from tests.samplers.vllm.engines import needs_vllm


def test_a_key_is_made_for_this_user_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VLLM_API_KEY", "of-the-user")
    assert serve.provide_key("127.0.0.1", 8123) == "of-the-user"
    monkeypatch.delenv("VLLM_API_KEY")
    assert find_key("http://127.0.0.1:8123") is None
    first, second = (serve.provide_key("127.0.0.1", 8123) for _ in range(2))
    assert len(first) >= 32
    assert first != second
    path = tmp_path / ".lgrpo" / "server-8123.key"
    assert path.read_text() == second == find_key("http://localhost:8123/") == find_key("http://[::1]:8123")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert find_key("http://127.0.0.1:8124") is find_key("http://elsewhere:8123") is None
    shown = capsys.readouterr().out
    assert f"export VLLM_API_KEY=$(cat {path})" in shown
    assert second not in shown  # not on a terminal


def test_a_link_in_place_of_the_key_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".lgrpo").mkdir()
    (other := tmp_path / "other").write_text("kept")
    (tmp_path / ".lgrpo" / "server-8000.key").symlink_to(other)
    make_key(8000)
    assert other.read_text() == "kept"


def test_a_taken_port(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "--config", str(tmp_path / "x.yaml"), "--port", str(port)]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["data: {}", "[]", ""])
def test_not_the_configuration_of_a_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"has no part 'model'|holds no configuration"):
        serve.load_run(tmp_path / "x.yaml")


def test_flags() -> None:
    assert serve.write_flag("enable_prefix_caching", False) == ["--no-enable-prefix-caching"]
    assert serve.write_flag("hf_overrides", {"a": 1}) == ["--hf-overrides", '{"a": 1}']


VLLM = "{class_path: VLLMSampler, init_args: {entropy_top: 50, engine: {max_model_len: 128, dtype: bfloat16}}}"


@pytest.mark.parametrize("sampler", [VLLM, f"{{class_path: ForkingSampler, init_args: {{sampler: {VLLM}}}}}"])
def test_the_servers_command(sampler: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"model:\n  policy: {{path: 'lgrpo:arithmetic'}}\n  sampler: {sampler}\n")
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
    assert '--weight-transfer-config \'{"backend": "lgrpo_files"}\'' in shown
    assert "--port 0" not in shown  # a free one
    for part in ("--max-model-len 128", "--dtype bfloat16", "--host 127.0.0.1", "--api-server-count 2",
                 "--logprobs-mode processed_logprobs", "--max-logprobs 50", "gate.Gate",
                 "WorkerExtension"):  # fmt: skip
        assert part in shown


def test_the_file_of_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_name", lambda: "node7")
    one, two = (ServerOptions(urls=[f"file:{tmp_path / n}" for n in names]) for names in ("a", "ab"))
    assert serve.choose_file(ServerOptions(), None) is None
    assert serve.choose_file(one, None) == tmp_path / "a"
    assert serve.choose_file(two, tmp_path / "b") == tmp_path / "b"
    with pytest.raises(ValueError, match=rf"names 2 files.*--address_file {tmp_path}/a"):
        serve.choose_file(two, None)
    for host, said in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", "node7"), ("::", "node7")):
        serve.write_address(tmp_path / "new" / "a", host, 8123)
        assert (tmp_path / "new" / "a").read_text() == f"http://{said}:8123\n"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]


def test_the_name_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"node7": ["127.0.1.1", "10.0.0.7"], "alone": ["127.0.1.1"], "localhost": ["127.0.0.1", "::1"]}

    def find(name: str, _: None) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if name not in addresses:
            raise socket.gaierror("Name or service not known")
        return [(2, 1, 6, "", (address, 0)) for address in addresses[name]]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    for full, short, said in (("node7.site", "node7", "node7.site"), ("localhost.localdomain", "node7", "node7")):
        monkeypatch.setattr(socket, "getfqdn", lambda full=full: full)
        monkeypatch.setattr(socket, "gethostname", lambda short=short: short)
        assert serve.find_name() == said
    for short in ("alone", "localhost", "unknown"):
        monkeypatch.setattr(socket, "gethostname", lambda short=short: short)
        with pytest.raises(ValueError, match=rf"name of this machine is {short}, .*--host NAME"):
            serve.find_name()


def test_a_transfer_that_needs_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_runs_on_cpu", lambda: True)
    sampler = {"class_path": "VLLMSampler", "init_args": {"server": {"transfer": "nccl"}}}
    run = {"model": {"policy": {"path": "lgrpo:arithmetic"}, "sampler": sampler}}
    with pytest.raises(ValueError, match=r"transfer is nccl, and vLLM runs on a CPU here. Use files, or auto"):
        serve.build_command(run, host="127.0.0.1", port=1)
    for cpu, wanted, engine in ((False, "auto", "nccl"), (False, "ipc", "ipc"), (True, "auto", "lgrpo_files")):
        monkeypatch.setattr(serve, "_runs_on_cpu", lambda cpu=cpu: cpu)
        sampler["init_args"] = {"server": {"transfer": wanted}}
        command = serve.build_command(run, host="127.0.0.1", port=1)
        assert f'{{"backend": "{engine}"}}' in command
        if not cpu:
            share = command[command.index("--gpu-memory-utilization") + 1]
            assert share == ("0.3" if engine == "ipc" else "0.9")  # with ipc the GPU is the trainer's, too


@needs_vllm
def test_pickles_are_read_for_ipc_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "x")
    for transfer in ("auto", "nccl", "ipc", "files"):
        found = serve.prepare_environment("127.0.0.1", 1, ServerOptions(transfer=transfer))  # type: ignore[arg-type]
        assert ("VLLM_ALLOW_INSECURE_SERIALIZATION" in found) == (transfer == "ipc")

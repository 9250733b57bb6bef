"""What the paper proves of GRPO, λ-GRPO and the process tree, on random groups."""

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, LambdaGRPO
from lgrpo_lightning.functional import aggregate, clipped_surrogate, k3_kl
from lgrpo_lightning.process_tree import ProcessTree, Trie
from lgrpo_lightning.types import Rewards
from tests.reference import naive
from tests.reference.groups import matrix, random_group, shared_logprobs

SEEDS = range(60)


class Case:
    """A random group with rewards, and one log-prob per trie node of policy (a leaf), old and reference."""

    def __init__(self, seed, **options):
        self.group = random_group(seed, empty=False, **options)
        self.tree = ProcessTree.from_sequences(self.group)
        self.trie = Trie.from_sequences(self.group)
        self.mask = self.tree.set_sizes() > 0
        generator = torch.Generator().manual_seed(seed)
        self.rewards = torch.randint(0, 9, (len(self.group),), generator=generator) / 8
        nodes = torch.rand(3, len(self.trie), generator=generator, dtype=torch.double).mul(-3)
        self.policy = nodes[0].clone().requires_grad_()
        self.old, self.ref = nodes[1], nodes[2]

    def at(self, nodes):
        """[U] → [G, T]"""
        flat = nodes.index_select(0, self.trie.node_ids.clamp(min=0).flatten())
        return torch.where(self.mask, flat.view(self.mask.shape), 0.0)

    def credit(self, estimator):
        return estimator.estimate(Rewards(outcome=self.rewards), self.tree)

    def loss(self, advantages, weights=None, *, on_policy=True, by="token", kl=0.04):
        logprobs = self.at(self.policy)
        old = logprobs.detach() if on_policy else self.at(self.old)
        per_token = clipped_surrogate(logprobs, old, advantages.double()) + kl * k3_kl(logprobs, self.at(self.ref))
        return aggregate(per_token, self.mask, weights, by=by)

    def with_gradient(self, loss):
        return loss.item(), torch.autograd.grad(loss, self.policy)[0]


def assert_same(one, other, tolerance=1e-6):
    assert one[0] == pytest.approx(other[0], rel=tolerance, abs=tolerance)
    assert torch.allclose(one[1], other[1], rtol=tolerance, atol=tolerance)


def step_advantages(case):
    return matrix(naive.step_advantages(case.rewards.double().tolist(), case.group), torch.double)


@pytest.mark.parametrize("seed", SEEDS)
def test_theorem_step_advantages_change_neither_value_nor_gradient(seed):
    case = Case(seed)
    if len(case.group) < 2:
        return
    grpo = case.with_gradient(case.loss(case.credit(GRPO()).advantages))
    prm = case.with_gradient(case.loss(step_advantages(case)))
    assert_same(grpo, prm, 1e-5)


def test_theorem_needs_one_update_and_the_token_normaliser():
    """Seen to fail where its conditions do: a clipped ratio, or the sequence normaliser."""
    differs = {"clipping": 0, "sequence": 0}
    for seed in SEEDS:
        case = Case(seed, size=5)
        a, b = case.credit(GRPO()).advantages, step_advantages(case)
        differs["clipping"] += abs((case.loss(a, on_policy=False) - case.loss(b, on_policy=False)).item()) > 1e-3
        differs["sequence"] += abs((case.loss(a, by="sequence") - case.loss(b, by="sequence")).item()) > 1e-3
    assert all(differs.values()), differs


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_add_up_to_the_number_of_trie_nodes(seed):
    case = Case(seed)
    weights = case.tree.weights()
    assert weights.sum().item() == pytest.approx(case.tree.num_nodes, abs=1e-4)
    assert case.tree.num_nodes == naive.num_nodes(case.group)


@pytest.mark.parametrize("on_policy", [True, False])
def test_lambda_grpo_is_grpo_where_nothing_is_shared(on_policy):
    case = Case(0)
    case.group = [[i, 7, 7] for i in range(5)]
    case.__dict__.update(tree=ProcessTree.from_sequences(case.group), trie=Trie.from_sequences(case.group))
    case.mask = case.tree.set_sizes() > 0
    case.rewards = torch.rand(5)
    case.policy = torch.rand(15, dtype=torch.double).neg().requires_grad_()
    case.old, case.ref = torch.rand(2, 15, dtype=torch.double).neg()
    losses = []
    for estimator in (GRPO(), LambdaGRPO()):
        credit = case.credit(estimator)
        losses.append(case.with_gradient(case.loss(credit.advantages, credit.weights, on_policy=on_policy)))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])


def test_a_prefix_that_all_share_weighs_one_over_the_group_size():
    tree = ProcessTree.from_sequences([[9, 9, i] for i in range(4)])
    assert tree.weights().tolist() == [[0.25, 0.25, 1.0]] * 4


@pytest.mark.parametrize("seed", SEEDS)
def test_on_policy_every_node_once_with_its_members_mean_advantage(seed):
    case = Case(seed)
    credit = case.credit(LambdaGRPO())
    loss = case.with_gradient(case.loss(credit.advantages, credit.weights))
    sums = torch.zeros(len(case.trie), dtype=torch.double)
    sums.index_add_(0, case.trie.node_ids[case.mask], credit.advantages[case.mask].double())
    ratio = (case.policy - case.policy.detach()).exp()
    nodes = -ratio * sums / case.trie.members() + 0.04 * k3_kl(case.policy, case.ref)
    assert_same(loss, case.with_gradient(nodes.sum() / case.mask.sum()))


@pytest.mark.parametrize("seed", SEEDS)
def test_with_clipping_two_sums_per_node(seed):
    case = Case(seed)
    credit = case.credit(LambdaGRPO())
    loss = case.with_gradient(case.loss(credit.advantages, credit.weights, on_policy=False))
    up, down = torch.zeros(2, len(case.trie), dtype=torch.double)
    up.index_add_(0, case.trie.node_ids[case.mask], credit.advantages.clamp(min=0)[case.mask].double())
    down.index_add_(0, case.trie.node_ids[case.mask], credit.advantages.clamp(max=0)[case.mask].double())
    ratio = (case.policy - case.old).exp()
    terms = up * ratio.clamp(max=1.2) + down * ratio.clamp(min=0.8)
    nodes = -terms / case.trie.members() + 0.04 * k3_kl(case.policy, case.ref)
    assert_same(loss, case.with_gradient(nodes.sum() / case.mask.sum()))


@pytest.mark.parametrize("estimator", [GRPO(), LambdaGRPO()], ids=["GRPO", "LambdaGRPO"])
@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("by", ["token", "sequence"])
def test_losses_equal_the_definition(estimator, on_policy, by):
    for seed in range(20):
        case = Case(seed)
        credit = case.credit(estimator)
        got = case.loss(credit.advantages, credit.weights, on_policy=on_policy, by=by).item()
        rows = [
            [nodes[k].item() for k in case.trie.node_ids[i, : len(y)]]
            for nodes in (case.policy, case.policy if on_policy else case.old, case.ref)
            for i, y in enumerate(case.group)
        ]
        n = len(case.group)
        a = naive.advantages(case.rewards.double().tolist())
        advantage = [[a[i]] * len(y) for i, y in enumerate(case.group)]
        weighted = isinstance(estimator, LambdaGRPO)
        expected = naive.loss(
            case.group,
            rows[:n],
            rows[n : 2 * n],
            rows[2 * n :],
            advantage,
            by=by,
            weighted=weighted,
            beta=0.04,
        )
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("estimator", [GRPO(), LambdaGRPO()], ids=["GRPO", "LambdaGRPO"])
def test_order_of_completions_changes_nothing(estimator):
    for seed in range(20):
        group = random_group(seed, empty=False)
        rewards = torch.rand(len(group), generator=torch.Generator().manual_seed(seed))
        logprobs = shared_logprobs(group, seed)
        values = []
        for order in (range(len(group)), reversed(range(len(group)))):
            at = list(order)
            tree = ProcessTree.from_sequences([group[i] for i in at])
            credit = estimator.estimate(Rewards(outcome=rewards[at]), tree)
            lp = matrix([logprobs[i] for i in at])
            per_token = clipped_surrogate(lp, lp - 0.3, credit.advantages) + 0.04 * k3_kl(lp, lp + 0.1)
            values.append(aggregate(per_token, tree.set_sizes() > 0, credit.weights).item())
        assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-6)

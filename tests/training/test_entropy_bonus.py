"""The weight of the entropy bonus over a resume."""

from lgrpo_lightning.training import Objective
from lgrpo_lightning.training.token_loss import EntropyBonus


def test_a_fixed_weight_is_the_configurations() -> None:
    before, after = EntropyBonus(Objective()), EntropyBonus(Objective(entropy_coef=0.05))
    after.load_state_dict(before.state_dict())
    assert after.coefficient == 0.05


def test_a_steered_one_goes_on_within_its_bound() -> None:
    before = EntropyBonus(Objective(entropy_target=1.0, entropy_coef_delta=0.1))
    for _ in range(5):
        before.saw(0.5)
    after = EntropyBonus(Objective(entropy_target=1.0, entropy_coef_max=0.3))
    after.load_state_dict(before.state_dict())
    assert before.coefficient == 0.5
    assert after.coefficient == 0.3


def test_a_steered_one_waits_for_the_first_entropy() -> None:
    bonus = EntropyBonus(Objective(entropy_coef=0.1, entropy_target=1.0))
    assert bonus.coefficient == 0.0
    bonus.saw(1.0)
    assert bonus.coefficient > 0.1

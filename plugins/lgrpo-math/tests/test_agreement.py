"""The verdicts are math-verify's own, and those of a person."""

from lgrpo_math import MathAnswer
from lgrpo_math.gold import gold_texts
from math_verify import parse, verify

# The data column, the completion, and whether it is right, decided by hand.
PAIRS: list[tuple[object, str, bool]] = [
    # plain numbers and text around them
    ("42", "42", True),
    ("42", "The answer is 42.", True),
    ("42", "First 40, then 2 more.\nSo the final answer is 42. I hope it is correct.", True),
    ("42", "41", False),
    ("42", "-42", False),
    (42, "It is $42$.", True),
    ("1,000", "1000", True),
    ("1000", "we count 1,000 sheep", True),
    ("-3", "the temperature is -3", True),
    ("48 / 2 = 24 clips in May.\n#### 24", r"She sold \boxed{24} clips", True),
    ("48 / 2 = 24 clips in May.\n#### 24", r"She sold \boxed{48} clips", False),
    ("2 1/2", r"\boxed{2.5}", True),
    ("2 1/2", r"\boxed{\frac{3}{2}}", False),
    ("-2 1/2", r"\boxed{-\frac{5}{2}}", True),
    ("48 / 2 = 24 clips in May.\n#### **24**", "24", True),
    (0.30000000000000004, "0.3", True),
    # boxed
    ("7", r"\boxed{7}", True),
    ("7", r"first \boxed{6}, no: \boxed{7}", False),  # math-verify reads both, as the set {6, 7}
    ("6 and 7", r"first \boxed{7}, then \boxed{6}", True),
    ("7", r"\[ \boxed{7} \]", True),
    ("7", r"$\boxed{x = 7}$", True),
    ("7", r"\boxed{ 7 } and that is all, 100%", True),
    # fractions, decimals, percentages
    ("1/2", r"\boxed{\frac{1}{2}}", True),
    ("1/2", r"$\dfrac12$", True),
    ("0.5", r"$\tfrac{1}{2}$", True),
    ("1/2", "0.5", True),
    ("1/2", r"\boxed{\frac{2}{4}}", True),
    ("1/2", r"\boxed{\frac{2}{1}}", False),
    ("0.333333", r"$\frac{1}{3}$", True),
    ("1/3", "0.3", False),
    ("-1/2", r"$-\frac{1}{2}$", True),
    ("-1/2", r"$\frac{-1}{2}$", True),
    (0.25, r"\boxed{\frac14}", True),
    (0.00001, "0.00001", True),
    ("50%", r"\boxed{50\%}", True),
    ("50%", "0.5", True),
    ("12.5%", r"$12.5\%$", True),
    ("50%", "51%", False),
    # roots, powers, constants, algebra
    ("sqrt(2)", r"\boxed{\sqrt{2}}", True),
    (r"\sqrt{8}", r"$2\sqrt{2}$", True),
    (r"2\pi", r"\boxed{2 \pi}", True),
    (r"2\pi", r"\boxed{3 \pi}", False),
    (r"2^{10}", "1024", True),
    ("x^2+1", "$1 + x^2$", True),
    ("(x+1)^2", "$x^2 + 2x + 1$", True),
    ("(x+1)^2", "$x^2 + 2x + 2$", False),
    (r"\frac{x}{2}", r"\boxed{0.5x}", True),
    ("y+1", "$x+1$", False),
    ("3+4i", r"\boxed{4i + 3}", True),
    # units
    ("5 cm", r"\boxed{5 \text{ cm}}", True),
    ("5", r"\boxed{5\text{ meters}}", True),
    (r"90^\circ", "$90$", True),
    ("so 12 apples", r"\boxed{12}", True),
    (r"\$5", r"\boxed{\$5}", True),
    # several answers, sets, intervals, tuples
    ("{1,2}", r"\boxed{\{2, 1\}}", True),
    ("1, 2", r"\boxed{2, 1}", True),
    ("3 and 4", "$3$ and $4$", True),
    ("3 and 4", r"\boxed{4}", False),
    ("{1,2,3}", r"\boxed{\{1,2\}}", False),
    ("(1,2]", r"\boxed{(1, 2]}", True),
    ("(1,2]", r"\boxed{[1, 2)}", False),
    ("[1, 2)", "2", False),
    (r"(-\infty, 3]", r"$(-\infty, 3]$", True),
    (r"(1,2) \cup (3,4)", r"$(3,4) \cup (1,2)$", True),
    ("(1, 2)", r"\boxed{(1,2)}", True),
    ("(1, 2)", r"\boxed{(2,1)}", False),
    ("x=2 or x=3", r"\boxed{x=3 \text{ or } x=2}", True),
    # equations, inequalities
    ("x=3", "$3$", True),
    ("y=2x+1", "$2x+1=y$", True),
    ("x>2", "$2<x$", True),
    ("x>2", "$x<2$", False),
    # matrices
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"$\begin{bmatrix}1&2\\3&4\end{bmatrix}$", True),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"$\begin{pmatrix}1&2\\4&3\end{pmatrix}$", False),
    (r"\begin{pmatrix}0.5\\1\end{pmatrix}", r"$\begin{pmatrix}\frac12\\1\end{pmatrix}$", True),
    # words, and no answer at all
    ("north", r"\boxed{north}", True),
    ("north", r"\boxed{south}", False),
    ("42", "I do not know.", False),
    ("42", "", False),
]


def test_agrees_with_math_verify_and_with_the_answer_by_hand(verdicts):
    assert len(PAIRS) >= 60
    model = MathAnswer(timeout=60, workers=2)
    ours = [v == "correct" for v in verdicts(model, [(gold, text) for gold, text, _ in PAIRS])]
    model.teardown()
    assert ours == [asked_directly(gold, text) for gold, text, _ in PAIRS]
    assert [pair for pair, got in zip(PAIRS, ours, strict=True) if pair[2] != got] == []


def asked_directly(gold: object, text: str) -> bool:
    """What math-verify says in this process, called as its documentation has it."""
    (gold_text,) = gold_texts(gold)
    return verify(parse(gold_text), parse(text))

"""Class distillation of sigmoids, scaled by how sure the teacher is (Mehta & Ozturk, arXiv:1805.06361).

Each class is a distribution of its own. A softmax over them would not see a common shift: student (3, 3) and teacher
(-3, -3) would agree. Heads without objectness scale by the largest class probability.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from yolo_slim.distill.positions import confidence, weighted_mean
from yolo_slim.distill.soften import binary_divergence, positive
from yolo_slim.distill.view import Pair, Scene, View, in_fp32
from yolo_slim.errors import SlimError


class Binary(nn.Module):
    """T^2 sum w KL(teacher || student) / (K sum w) over positions and classes; w = the teacher's largest probability.

    Args:
        temperature: T.
    """

    weight = 2.0

    def __init__(self, pair: Pair, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_same_classes("binary", pair)
        self.temperature = positive("binary", temperature)

    @in_fp32
    def forward(self, student: View, teacher: View, scene: Scene) -> Tensor:
        """A scalar; 0 where the teacher sees nothing at all."""
        gaps = binary_divergence(student.scores, teacher.scores, self.temperature).mean(1)  # (B, A)
        return weighted_mean(gaps, confidence(teacher))


def check_same_classes(loss: str, pair: Pair) -> None:
    """Nothing, where student and teacher know the same classes, as far as they have names.

    Raises:
        SlimError: they do not.
    """
    theirs = pair.classes if pair.teacher_classes is None else pair.teacher_classes
    if theirs != pair.classes:
        raise SlimError(
            f"distillation `{loss}` compares class by class: the student has {pair.classes} classes, the teacher "
            f"{theirs}; take a teacher trained on the same data, or a loss that compares maps or boxes"
        )
    if said := other_names(pair.names, pair.teacher_names):
        raise SlimError(
            f"distillation `{loss}` compares class by class: {said} of the teacher; take a teacher trained on the same "
            "data, or a loss that compares maps or boxes"
        )


def other_names(ours: Sequence[str], theirs: Sequence[str]) -> str | None:
    """The first class that has another name on the other side; None: there is none, or names are not known."""
    for i, (one, two) in enumerate(zip(ours, theirs, strict=False)):
        if one.casefold() != two.casefold():
            return f"class {i} is {one!r} beside {two!r}"
    return None

"""What all losses of distillation have in common: where they are 0, whom they teach, and that nothing breaks them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from distill_helpers import pair, scene, view
from torch import Tensor, nn

from yolo_slim.distill import FEATURES, LOSSES, Pair, Scene, View
from yolo_slim.distill.match import resized
from yolo_slim.distill.together import Together
from yolo_slim.errors import SlimError

TRUTH = [(8, 8, 40, 40), (0, 20, 30, 60), (30, 2, 62, 50), (4, 4, 20, 12)]
WHERE = scene(*TRUTH, images=[0, 0, 1, 1])
SAME = [torch.tensor([4, 0, 2]), torch.tensor([5, 1, 0, 6, 3])]
GUESSING = {"mgd", "darkrank"}  # a generator has to guess, an order is never certain: not 0 where both agree
READS = {"binary": "scores", "background": "scores", "box": "boxes", "ld": "boxes", "bounded": "boxes"}  # else maps


def live(v: View) -> View:
    """The same view with leaves that gradients reach."""
    return View(
        [m.detach().clone().requires_grad_() for m in v.maps],
        v.boxes.detach().clone().requires_grad_(),
        v.scores.detach().clone().requires_grad_(),
    )


def leaves(v: View) -> list[Tensor]:
    return [*v.maps, v.boxes, v.scores]


def of(student: View, same: list[Tensor]) -> View:
    """The student that has these channels of a view."""
    return replace(student, maps=[m[:, channels] for m, channels in zip(student.maps, same, strict=True)])


def made(name: str, known: Pair, **options) -> nn.Module:
    torch.manual_seed(0)
    return LOSSES[name](known, **options)


def teacher_and_student(**options) -> tuple[View, View]:
    return view(0, WHERE, widths=(5, 7), **options), view(1, WHERE, widths=(3, 5), **options)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in GUESSING])
def test_agreement_costs_nothing_and_pulls_nowhere(name):
    teacher, _ = teacher_and_student()
    student = live(of(teacher, SAME))
    loss = made(name, pair(student, teacher, SAME))(student, teacher, WHERE)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in leaves(student))


@pytest.mark.parametrize("name", LOSSES)
def test_difference_costs_and_teaches_student_and_adapters_alone(name):
    for same in (SAME, None):
        if name == "channels" and same is None:
            continue
        teacher, student = (live(v) for v in teacher_and_student())
        loss_of = made(name, pair(student, teacher, same))
        loss = loss_of(student, teacher, WHERE)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.shape == () and loss.item() > 1e-3
        assert all(p.grad is None for p in leaves(teacher))
        read = getattr(student, READS.get(name, "maps"))
        assert all(p.grad.abs().sum() > 0 for p in (read if isinstance(read, list) else [read]))
        assert all(p.grad.abs().sum() > 0 for p in loss_of.parameters())


@pytest.mark.parametrize("name", FEATURES)
def test_common_channels_need_no_adapter(name):
    teacher, student = teacher_and_student()
    trained = [p.shape for p in made(name, pair(student, teacher, SAME)).parameters() if p.shape[-1:] == (1,)]
    assert trained == []


@pytest.mark.parametrize("name", ["mimic", "region", "fgfi", "scored", "cwd", "pkd", "mgd", "fsp"])
def test_an_adapter_where_channels_are_unknown_or_it_is_wanted(name):
    teacher, student = teacher_and_student()
    for same, options in ((None, {}), (SAME, {"adapter": True})):
        found = made(name, pair(student, teacher, same), **options).state_dict()
        assert [v.shape[:2] for k, v in found.items() if "adapters" in k] == [(5, 3), (7, 5)]
    alike = pair(teacher, teacher)
    assert not [k for k in made(name, alike, adapter=False).state_dict() if "adapters" in k]


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "darkrank"])  # doubles are the nearest in a ranking
def test_a_batch_twice_is_the_same_mean(name):
    teacher, student = teacher_and_student()
    loss = made(name, pair(student, teacher, SAME), **({"masked": 0.0} if name == "mgd" else {}))
    twice = [View([m.repeat(2, 1, 1, 1) for m in v.maps], v.boxes.repeat(2, 1, 1), v.scores.repeat(2, 1, 1))
             for v in (student, teacher)]  # fmt: skip
    where = replace(
        WHERE,
        boxes=WHERE.boxes.repeat(2, 1),
        classes=WHERE.classes.repeat(2),
        images=torch.cat([WHERE.images, WHERE.images + 2]),
    )
    assert loss(*twice, where).item() == pytest.approx(loss(student, teacher, WHERE).item(), rel=1e-5)


NOTHING = -1e4  # a logit that no precision can tell from certainty


@pytest.mark.parametrize(
    ("names", "truth", "sees"),
    [
        (["fgfi", "bounded", "darkrank"], [], True),  # they learn from true boxes
        (["scored", "binary", "box", "ld", "bounded"], TRUTH, False),  # from what the teacher sees
        (["region"], [], False),  # from either
    ],
)
@pytest.mark.parametrize("same", [SAME, None], ids=["cut", "adapters"])
def test_nothing_to_learn_is_a_zero_with_a_graph(names, truth, sees, same):
    """Exactly 0, and parameters get gradients all the same: workers of one training wait for one another's."""
    where = scene(*truth)
    for name in names:
        teacher, student = teacher_and_student()
        student = live(student)
        if not sees:
            teacher = replace(teacher, scores=torch.full_like(teacher.scores, NOTHING))
        loss_of = made(name, pair(student, teacher, same))
        loss = loss_of(student, teacher, where)
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is None or not p.grad.any() for p in leaves(student))
        assert all(p.grad is not None and not p.grad.any() for p in loss_of.parameters())


def constant(v: View, value: float) -> View:
    return replace(v, maps=[torch.full_like(m, value) for m in v.maps])


def sure(v: View, scores: float, boxes: float = 0.0) -> View:
    """All classes at every position, and the first bin of every distance."""
    logits = v.boxes.unflatten(1, (4, -1)).clone()
    logits[:, :, 0] += boxes
    return replace(v, scores=torch.full_like(v.scores, scores), boxes=logits.flatten(1, 2))


def cast(v: View, dtype: torch.dtype, times: float = 1.0) -> View:
    return View([(times * m).to(dtype) for m in v.maps], v.boxes.to(dtype), v.scores.to(dtype))


def case(where: Scene = WHERE, student=lambda v: v, teacher=lambda v: v, **options):
    return where, student, teacher, options


CASES = {
    "an ordinary batch": case(),
    "no objects": case(scene()),
    "one object": case(scene(TRUTH[0])),
    "objects without an area, outside, over the border": case(
        scene((9, 9, 9, 9), (70, 70, 90, 90), (-20, -20, 30, 200), (0, 0, 64, 64))
    ),
    "the same object three times": case(scene(TRUTH[0], TRUTH[0], TRUTH[0])),
    "wide images": case(scene(*TRUTH, size=(64, 128))),
    "one class": case(classes=1),
    "80 classes": case(classes=80),
    "maps of 2 x 2 and 1 x 1": case(scene(*TRUTH, strides=(32, 64))),
    "maps of 80 x 80": case(scene(*TRUTH, size=(640, 640), strides=(8, 32)), batch=1),
    "16 bins": case(bins=16),
    "plain distances": case(bins=1),
    "negative distances": case(student=lambda v: replace(v, boxes=-v.boxes), bins=1),
    "a teacher with negative distances": case(teacher=lambda v: replace(v, boxes=-v.boxes), bins=1),
    "a teacher that sees nothing": case(teacher=lambda v: sure(v, NOTHING)),
    "a student that sees nothing": case(student=lambda v: sure(v, NOTHING)),
    "a teacher sure of everything": case(teacher=lambda v: sure(v, -NOTHING, -NOTHING)),
    "both sure, of opposites": case(student=lambda v: sure(v, NOTHING, NOTHING), teacher=lambda v: sure(v, -NOTHING)),
    "boxes of no size": case(student=lambda v: sure(v, 0, -NOTHING), teacher=lambda v: sure(v, 0, -NOTHING)),
    "a student of constant maps": case(student=lambda v: constant(v, 0.3)),
    "a teacher of constant maps": case(teacher=lambda v: constant(v, 0.3)),
    "constant maps": case(student=lambda v: constant(v, 0.3), teacher=lambda v: constant(v, 7.0)),
    "maps of zeros": case(student=lambda v: constant(v, 0.0), teacher=lambda v: constant(v, 0.0)),
    "fp16": case(student=lambda v: cast(v, torch.half), teacher=lambda v: cast(v, torch.half)),
    "bf16": case(student=lambda v: cast(v, torch.bfloat16), teacher=lambda v: cast(v, torch.bfloat16)),
    "fp16 at its end": case(
        student=lambda v: cast(v, torch.half, 1e4), teacher=lambda v: cast(v, torch.half, 1e4), same_only=True
    ),
}


@pytest.mark.parametrize(
    ("what", "name"),
    [(w, n) for w, (*_, options) in CASES.items() for n in LOSSES if n != "ld" or options.get("bins") != 1],
)
def test_finite_with_finite_gradients(what, name):
    where, change_student, change_teacher, options = CASES[what]
    options = dict(options)
    sames = [SAME] if options.pop("same_only", False) or name == "channels" else [SAME, None]
    for same in sames:
        teacher, student = (view(i, where, widths=w, **options) for i, w in enumerate([(5, 7), (3, 5)]))
        student, teacher = live(change_student(student)), change_teacher(teacher)
        loss_of = made(name, pair(student, teacher, same))
        loss = loss_of(student, teacher, where)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite()
        reached = [p.grad for p in (*leaves(student), *loss_of.parameters()) if p.grad is not None]
        assert reached and all(g.isfinite().all() for g in reached)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name):
    """It would take convolutions and products back to half precision."""
    teacher, student = teacher_and_student()
    loss = made(name, pair(student, teacher, SAME if name == "channels" else None))
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(loss(student, teacher, WHERE).item())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["channels", "mimic", "region", "fgfi", "scored", "fsp"])
def test_normalized_errors_are_shares_of_the_teachers_variance(name):
    teacher, student = teacher_and_student()
    loss = made(name, pair(student, teacher, SAME), **({} if name == "channels" else {"normalize": True}))
    larger = [replace(v, maps=[100 * m for m in v.maps]) for v in (student, teacher)]
    assert loss(*larger, WHERE).item() == pytest.approx(loss(student, teacher, WHERE).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pkd", lambda m: 3 * m + 2),  # correlation knows neither scale nor shift
        ("attention", lambda m: 3 * m),  # where energy lies, not how much
        ("cwd", lambda m: m + torch.arange(m.shape[1])[:, None, None]),  # a softmax does not see a shift
        ("darkrank", lambda m: 3 * m),  # embeddings have norm 1
    ],
)
def test_what_a_loss_of_maps_does_not_see(name, change):
    teacher, student = teacher_and_student()
    loss = made(name, pair(student, teacher, SAME))
    changed = replace(student, maps=[change(m) for m in student.maps])
    assert loss(changed, teacher, WHERE).item() == pytest.approx(loss(student, teacher, WHERE).item(), rel=1e-4)


def test_the_pair_moves_with_the_module_and_is_not_stored():
    teacher, student = teacher_and_student()
    loss = made("channels", pair(student, teacher, SAME))
    assert [b.tolist() for b in loss.buffers()] == [s.tolist() for s in SAME]
    assert loss.state_dict() == {}


@pytest.mark.parametrize("name", FEATURES)
def test_maps_of_another_size_are_resized(name):
    for same in (SAME, None):
        if name == "channels" and same is None:
            continue
        teacher, student = teacher_and_student()
        half = replace(student, maps=[m[:, :, ::2, ::2] for m in student.maps])
        whole = replace(student, maps=[resized(m, t) for m, t in zip(half.maps, teacher.maps, strict=True)])
        loss = made(name, pair(student, teacher, same))
        found = []
        for seen in (half, whole):
            torch.manual_seed(1)
            found.append(loss(seen, teacher, WHERE).item())
        assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_maps_of_another_size_are_compared_where_they_are():
    teacher, student = teacher_and_student()
    half = replace(student, maps=[torch.full_like(m[:, :, ::2, ::2], 2.0) for m in student.maps])
    whole = replace(student, maps=[torch.full_like(m, 2.0) for m in student.maps])
    loss = made("channels", pair(student, teacher, SAME))
    assert loss(half, teacher, WHERE).item() == pytest.approx(loss(whole, teacher, WHERE).item(), rel=1e-6)


NAMES = ("disc", "ring", "box")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"teacher_classes": 80}, "the first has 3 classes, the 2. has 80"),
        ({"teacher_bins": 16}, "the first has 4 bins a distance, the 2. has 16"),
        ({"teacher_names": ("disc", "box", "ring")}, "class 1 is 'ring' beside 'box' of the 2."),
    ],
)
def test_teachers_that_cannot_be_joined(other, message):
    """Where predictions are compared; maps are compared with each teacher's."""
    first = replace(STRANGERS, teacher_names=NAMES)
    pairs = [first, replace(first, **other)]
    with pytest.raises(SlimError, match=message):
        Together(pairs, {}, {"box": (LOSSES["box"], {})})
    Together(pairs, {"mimic": (LOSSES["mimic"], {})}, {})


def test_every_teacher_must_fit_an_output_loss():
    """The first has no names, the second others than the student."""
    pairs = [replace(STRANGERS, names=NAMES), replace(STRANGERS, names=NAMES, teacher_names=NAMES[::-1])]
    with pytest.raises(SlimError, match="class 0 is 'disc' beside 'box' of the teacher"):
        Together(pairs, {}, {"binary": (LOSSES["binary"], {})})


TEACHER, STUDENT = teacher_and_student()
STRANGERS = pair(STUDENT, TEACHER)


@pytest.mark.parametrize(
    ("name", "known", "options", "message"),
    [
        ("channels", STRANGERS, {}, "needs a student that was cut from this teacher"),
        ("mimic", STRANGERS, {"adapter": False}, r"student has \[3, 5\], the teacher \[5, 7\]; leave out"),
        ("pkd", replace(STRANGERS, same=[*SAME[:1], torch.arange(4)]), {}, "map 1: the student's 5 channels"),
        ("cwd", replace(STRANGERS, same=[torch.tensor([0, 1, 5]), SAME[1]]), {}, r"in the teacher's 5, but \[0, 1, 5"),
        ("fsp", Pair([3], [5], SAME[:1], 3, 4), {}, "a map with the next, 1 came; name two"),
        ("ld", replace(STRANGERS, bins=1, teacher_bins=1), {}, r"has 1 a distance, the teacher 1 .*; take `box`"),
        ("ld", replace(STRANGERS, teacher_bins=16), {}, "has 4 a distance, the teacher 16"),
        ("binary", replace(STRANGERS, teacher_classes=80), {}, "has 3 classes, the teacher 80; take"),
        ("background", replace(STRANGERS, teacher_classes=80), {}, "has 3 classes, the teacher 80; take"),
        *((name, replace(STRANGERS, names=NAMES, teacher_names=("disc", "box", "ring")), {},
           f"`{name}` compares class by class: class 1 is 'ring' beside 'box'") for name in ("binary", "background")),
        ("mgd", STRANGERS, {"masked": 1.5}, "share from 0 to 1, 1.5 came"),
        *((name, STRANGERS, {"temperature": 0.0}, f"`{name}`: .*above 0, 0.0 came") for name in
          ("binary", "background", "cwd", "ld")),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_it_is_made(name, known, options, message):
    with pytest.raises(SlimError, match=message):
        LOSSES[name](known, **options)


def test_as_many_maps_as_announced():
    with pytest.raises(SlimError, match=r"2 maps .* were announced, 1 of the student and 2 of the teacher"):
        made("mimic", STRANGERS)(replace(STUDENT, maps=STUDENT.maps[:1]), TEACHER, WHERE)


def test_nothing_said_of_the_teachers_head_is_the_students():
    known = Pair([3, 5], [3, 5], None, classes=3, bins=16)
    assert {type(LOSSES[name](known)).__name__ for name in ("ld", "binary")} == {"Ld", "Binary"}


def test_each_loss_has_a_weight():
    assert all(isinstance(loss.weight, float) and loss.weight > 0 for loss in LOSSES.values())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_maps_alone_is_the_same_whatever_the_teacher_predicts(name):
    """Its head need not be run then; of the others each looks at what it predicts."""
    teacher, student = teacher_and_student()
    nothing = torch.zeros(2, 0, 0)
    silent = replace(teacher, boxes=nothing, scores=nothing)

    def cost(of: View) -> float:
        loss = made(name, pair(student, teacher, SAME))
        torch.manual_seed(1)  # `mgd` draws what its generator sees
        return loss(student, of, WHERE).item()

    if getattr(LOSSES[name], "maps_alone", False):
        assert cost(silent) == cost(teacher)
    else:
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            cost(silent)

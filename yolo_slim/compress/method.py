"""What every way of making a detector smaller is: settings, a plan, a detector, a proof, and what training keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from yolo_slim.channels.moments import Moments

Hold: TypeAlias = Callable[[nn.Module, float], None]
"""Brings a detector's numbers back to where a method wants them, in place; after every step of the optimizer, in the
detector and in the average of its weights. It gets the share of the training that has passed, 0 to 1, and goes by that
and by the plan alone, so that a training that is resumed goes on with nothing else; one that goes by more is
`Deciding`."""


@runtime_checkable
class Deciding(Protocol):
    """A hold that finds out in training what is held: from the detector that is trained, not from its average."""

    @property
    def learned(self) -> Sequence[nn.Parameter]:
        """What is trained beside the detector, without weight decay; no part of it."""

    def before_step(self, detector: nn.Module) -> None:
        """Right before a step of the optimizer, with the gradients that it will use."""

    def after_step(self, detector: nn.Module) -> None:
        """Right after it, also where mixed precision has made none of it."""

    def decide(self, detector: nn.Module, passed: float) -> None:
        """What is held from now on, and hold it; twice at the same share of the training is as once."""

    def __call__(self, module: nn.Module, passed: float) -> None:
        """As any `Hold`, with what was decided last."""

    def state(self) -> dict[str, Any]:
        """What a resumed training needs: plain values, tensors and dicts of them."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class Material:
    """What a method may look at beside the weights."""

    imgsz: int
    images: Iterable[Tensor] = ()  # batches (B, C, H, W) in [0, 1], without labels; may be read again and again
    zeros: Mapping[str, Tensor] = field(default_factory=dict)  # parameter -> bool, like it: False is held at zero
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What a method would do to a detector; made without touching it, kept in files, followed by `apply`."""

    layers: dict[str, dict[str, Any]]  # layer -> what is decided for it, plain values; in the detector's order
    tensors: dict[str, Tensor] = field(default_factory=dict)  # parameter -> mask, whole numbers, or new weights
    kept: dict[str, str] = field(default_factory=dict)  # layer -> why it stays as it is
    refit: dict[str, str] = field(default_factory=dict)  # layer of the new detector -> of the old one, whose output it
    # is to give again by least squares
    undecided: bool = False  # training is to find out the rest of it, see `Gradual.settled`

    @property
    def grown(self) -> dict[str, list[int]]:
        """Convolution -> of each of its outputs now, which of those before it is a copy of; those that grow alone."""
        return {name: list(each["outputs"]) for name, each in self.layers.items() if "outputs" in each}


class Method(Protocol):
    """One way of making a detector smaller. A frozen dataclass: its fields are its settings, checked by their types."""

    help: ClassVar[str]  # one line: what it does
    speed: ClassVar[str]  # one line: what runtimes make of it
    changes_layers: ClassVar[bool]  # other layers, not other numbers: then it comes before what changes numbers

    @property
    def gradual(self) -> bool:
        """Whether training brings about what it does, by `hold`, and `apply` changes nothing yet: it is `Gradual`."""

    def plan(self, detector: nn.Module, material: Material) -> Plan:
        """What it would do; leaves the detector alone.

        Raises:
            SlimError: there is nothing that it can do, or it lacks what it has to look at.
        """

    def apply(self, detector: nn.Module, plan: Plan) -> nn.Module:
        """A new detector; leaves the one given alone."""

    def prove(self, detector: nn.Module, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That the new detector, as `apply` has made it, is what the plan says; figures to be kept.

        Raises:
            SlimError: it is not: nothing may be written then.
        """

    def check(self, compressed: nn.Module, plan: Plan) -> dict[str, float]:
        """That what the plan holds is there, also after a refit or a training; figures to be kept.

        Raises:
            SlimError: it is not: nothing may be written then.
        """

    def fit(self, layer: str, weight: Tensor, moments: Moments, plan: Plan) -> tuple[Tensor, Tensor]:
        """Weights (Co, a) and intercept (Co,), as the plan allows, that give again what the layer gave.

        Args:
            layer: of `plan.refit`.
            weight: (Co, a), what it has now; of a layer in groups (Co, a / groups), as what is returned.
            moments: of what it reads now (a) against what the old layer gave (Co).
        """

    def describe(self, plan: Plan) -> dict[str, Any]:
        """A few figures of a plan, for the card and the report: plain values."""

    def hold(self, plan: Plan) -> Hold | None:
        """What training has to keep; None: nothing."""


@runtime_checkable
class Gradual(Method, Protocol):
    """A method that training may bring about: its plan is undecided until then."""

    def settled(self, trained: nn.Module, plan: Plan) -> Plan:
        """The plan as a detector says it that was trained to its end: what is held and checked from then on."""

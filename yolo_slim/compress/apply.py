"""One method applied: planned, done, proven, refitted, and checked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from yolo_slim.compress.method import Material, Method, Plan
from yolo_slim.compress.refit import refit


@dataclass(frozen=True)
class Compressed:
    """What a method has made of a detector."""

    model: nn.Module
    plan: Plan
    proof: dict[str, float]

    def __repr__(self) -> str:
        return f"<Compressed: {len(self.plan.layers)} layers, {len(self.plan.kept)} stay as they are>"


def applied(
    detector: nn.Module,
    method: Method,
    material: Material,
    *,
    refits: bool = True,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """A detector after one method; the one given is left alone.

    Args:
        detector: in eval mode.
        method: with its settings.
        material: what it may look at; without images nothing is refitted.
        refits: give each changed layer back what it gave, by least squares.
        step: called with (layers fitted, layers to fit) whenever some are.

    Raises:
        SlimError: there is nothing that the method can do, it lacks what it has to look at, or it fails its proof.
    """
    plan = method.plan(detector, material)
    made = method.apply(detector, plan)
    proof = method.prove(detector, made, plan)
    if refits and material.images and plan.refit and not method.gradual:
        made = refit(made, detector, plan, method, material.images, seed=material.seed, step=step)
        proof = {**proof, **method.check(made, plan)}
    return Compressed(made, plan, proof)

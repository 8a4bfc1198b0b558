"""Settings of the cut: how much, by what, of which layers, and what makes up for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from yolo_slim.config.base import MOST_EPOCHS, MOST_IMAGES, Section, Share
from yolo_slim.config.values import LARGEST
from yolo_slim.devices import DEVICES, preset

ROUND_TO = MIN_CHANNELS = 8
"""Where neither the user nor a device says so: runtimes work in blocks of 8 or 16."""

RECOVERIES: dict[str, dict[str, Any]] = {
    "none": {"reconstruct": "none", "absorb": "none", "recalibrate": 0},
    "absorb": {"reconstruct": "none", "absorb": "measured", "recalibrate": 0},
    "recalibrate": {"reconstruct": "none", "absorb": "measured"},
    "reconstruct": {"reconstruct": "lstsq", "recalibrate": 0},
}
"""What a sweep calls a recovery: settings of the `prune:` section that it puts over the user's own."""


class Target(Section):
    """A budget, as the share of the original that may stay."""

    flops: Share | None = Field(None, description="share of the FLOPs to keep")
    params: Share | None = Field(None, description="share of the parameters to keep")
    size_mb: float | None = Field(None, gt=0, le=1e6, description="megabytes (1e6 bytes) that the checkpoint may have")
    latency: Share | None = Field(None, description="share of the measured time of an image to keep (see `latency:`)")
    latency_ms: float | None = Field(
        None, gt=0, le=1e6, description="milliseconds an image may take, nothing else running"
    )

    @property
    def timed(self) -> bool:
        """Whether the time that layers take must be known."""
        return self.latency is not None or self.latency_ms is not None


class Sensitivity(Section):
    """A scan: how much worse the detector gets when one group alone loses channels."""

    ratios: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        min_length=1,
        description="shares of each group's channels that are silenced in turn, the lowest scores first",
    )
    metric: Literal["loss", "map50_95"] = Field(
        "loss", description="loss: on some images of the val split; map50_95: on all of it, slower"
    )
    images: int = Field(
        256, ge=1, le=MOST_IMAGES, description="val images that the loss is measured on (map50_95: on all there are)"
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="instead of a ratio or a target: every group loses what makes the detector no worse than this",
    )

    @field_validator("ratios")
    @classmethod
    def _rising(cls, ratios: list[float]) -> list[float]:
        if not any(ratios):
            raise ValueError("expected a ratio above 0: at 0 nothing is silenced")
        return sorted(set(ratios))


class Iterations(Section):
    """Cutting in rounds, each but the last fine-tuned before the next; every share refers to the uncut detector."""

    rounds: int = Field(
        1, ge=1, le=100, description="cuts; between them the detector is fine-tuned as under `finetune:`"
    )
    schedule: Literal["exponential", "linear", "cubic"] = Field(
        "exponential",
        description="exponential: the same share of what is left each round; linear: as much; cubic: most of it early",
    )
    epochs: int = Field(5, ge=1, le=MOST_EPOCHS, description="epochs of fine-tuning after each round but the last")
    stop_if_map_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="stop when a fine-tuned round is more than this mAP50-95 (val) below the original; 0.02: 2 points",
    )


class Depth(Section):
    """Residual branches that go whole."""

    blocks: Annotated[int, Field(ge=0, le=1_000, strict=True)] | Literal["auto"] = Field(
        0, description="how many go, before channels do; auto: those that cost less loss than channels in their place"
    )
    score: Literal["delta_loss", "gamma_mean", "taylor"] = Field(
        "delta_loss",
        description="what a branch is worth: delta_loss (loss without it), gamma_mean (no data needed) or taylor",
    )


class Search(Section):
    """A search for better widths: how long, and on how many images cuts are compared."""

    trials: int | None = Field(None, ge=1, le=1_000_000, description="cuts that are tried (or give seconds)")
    seconds: float | None = Field(
        None, gt=0, le=1e6, description="seconds it takes at most; with trials, the same outcome every time"
    )
    images: int = Field(
        48, ge=1, le=MOST_IMAGES, description="of the calibration images, a third at most: held out, to compare cuts on"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Search:
        if (self.trials is None) == (self.seconds is None):
            raise ValueError("expected one of {trials, seconds}, e.g. prune.search.seconds=300")
        return self

    def share(self, trials: int, seconds: float) -> float:
        """Of it that is over after so much, 0 to 1."""
        of = trials / self.trials if self.trials is not None else seconds / (self.seconds or 1.0)
        return min(of, 1.0)


class Widths(NamedTuple):
    """What widths may be: as given, else as the device has it, else as usual."""

    round_to: int
    min_channels: int


class Prune(Section):
    """Which channels go, and what is done for those that stay."""

    criterion: str | None = Field(
        None,
        description="what a channel is worth: by weights bn_scale, l1, l2, fpgm; on images act_std, act_mean, apoz, "
        "lasso, obs; by the loss on labelled images taylor, group_fisher; a control: random; module:function, of your "
        "own (default: obs where there are images, else l1)",
    )
    fisher: Literal["predicted", "labels"] = Field(
        "predicted",
        description="obs: whose gradients say what a layer's outputs matter: predicted (of targets drawn from the "
        "detector's own predictions: no label is read) or labels (of the loss on labelled images)",
    )
    solver: Literal["auto", "threshold", "knapsack", "sensitivity"] = Field(
        "auto",
        description="threshold: the lowest scores go first; knapsack: the largest sum of scores that the budget buys; "
        "sensitivity: what a scan of the detector says hurts least; auto: knapsack for targets with obs, whose scores "
        "add up, and for latency targets, else threshold",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="global: compare over the whole detector; layer: the same share everywhere"
    )
    ratio: Share | None = Field(None, description="share of the prunable channels to remove (or give a target)")
    target: Target | None = Field(
        None, description="any of {flops, params, latency: share to keep; size_mb: megabytes; latency_ms: milliseconds}"
    )
    sensitivity: Sensitivity = Field(Sensitivity(), description="the scan of solver sensitivity")
    rescore: int | None = Field(
        None,
        ge=1,
        le=100,
        description="times that channels are scored on the way to the cut, each time in the detector as it is by then, "
        "cut so far and refitted (default: 3 with obs, which asks what is lost from there on, else 1)",
    )
    search: Search | None = Field(
        None,
        description="search for better widths, by what the cut detector says of images without labels: {seconds: 300} "
        "or {trials: 200}; null: the scores alone decide",
    )
    layers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {},
        description="module-name pattern -> share to remove there, e.g. {model.2.*: 0.3}; the rest follows the above",
    )
    min_keep: float = Field(0.1, ge=0, le=1, description="share of every group's channels that stays at least")
    device: str | None = Field(
        None,
        description=f"what the slim detector will run on, {', '.join(DEVICES)}, or at a precision, as rknn:fp16: "
        "round_to and min_channels follow it, and the report says what it fills widths up to",
    )
    min_channels: int | None = Field(
        None,
        ge=0,
        le=65_536,
        description="channels of every group that stay at least; with min_keep 0, branches may empty (default: the "
        f"device's, else {MIN_CHANNELS})",
    )
    round_to: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description=f"kept widths are multiples of this (default: the device's, else {ROUND_TO})",
    )
    exclude: list[str] = Field([], description="module-name patterns that stay whole, e.g. [model.0, model.24]")
    normalize: Literal["auto", "none", "mean", "l2", "lamp"] = Field(
        "auto",
        description="make groups comparable: divide scores by the group's mean or l2, or squares by all that are not "
        "smaller (lamp); auto: mean for l1, l2, fpgm, act_std, act_mean",
    )
    per_cost: Literal["auto", "none", "memory", "flops", "params"] = Field(
        "auto", description="divide scores by what removing the channel saves; auto: memory for group_fisher"
    )
    # After group lasso, the default penalty, a channel's layers go together, and l2 is the norm that was pulled on;
    # after penalty=l1 each goes alone, and max keeps what any of them needs.
    group_reduce: Literal["max", "mean", "sum", "l2", "first"] = Field(
        "l2",
        description="joins the scores of layers tied into one group: l2 (root mean square), max (for scales trained "
        "with sparse_train.penalty=l1), mean, sum, first",
    )
    depth: Depth | None = Field(None, description="{blocks: how many residual branches go whole, score: which}")
    bn_fold: bool = Field(
        False, description="score filters as batch norm scales them (l1, l2, fpgm, act_std, act_mean)"
    )
    mix_norm: float = Field(
        0.0, ge=0, le=1, description="fpgm: share of the channels to go that go by l2 norm instead (paper's mix: 0.25)"
    )
    points_per_image: int = Field(10, ge=1, le=100_000, description="lasso: random positions looked at in each image")
    absorb: Literal["measured", "beta", "none"] | None = Field(
        None,
        description="what removed channels carried goes into their readers: measured on images, or act(beta) "
        "(default: measured where there is data, else beta)",
    )
    reconstruct: Literal["lstsq", "none"] | None = Field(
        None,
        description="lstsq: refit what reads removed channels to its outputs in the original, absorption included "
        "(default: lstsq where there is data, else none)",
    )
    recalibrate: int | None = Field(
        None,
        ge=0,
        le=MOST_IMAGES,
        description="training images to measure batch-norm statistics on anew; 0: off (default: off after "
        "reconstruction, else calib_images)",
    )
    calib_images: int = Field(
        256, ge=1, le=MOST_IMAGES, description="training images that criteria and recovery look at"
    )
    seed: int = Field(0, ge=0, le=LARGEST, description="of criterion random and of the calibration images")
    iterations: Iterations = Iterations()

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str | None) -> str | None:
        return None if device is None else str(preset(device))

    @property
    def widths(self) -> Widths:
        """What is left when null is resolved."""
        of = preset(self.device) if self.device else None
        usual = Widths(of.rules.round_to if of else ROUND_TO, of.device.least if of else MIN_CHANNELS)
        given = (self.round_to, self.min_channels)
        return Widths(*(b if a is None else a for a, b in zip(given, usual, strict=True)))

    @model_validator(mode="after")
    def _one_budget(self) -> Prune:
        if self.ratio is not None and self.target is not None:
            raise ValueError("ratio and target both say how much to remove: choose one (`prune.ratio=null` drops it)")
        return self

    @property
    def weighs_groups(self) -> bool:
        """Whether scores decide how much each group loses."""
        return self.scope == "global" and self.solver != "sensitivity"

    @model_validator(mode="after")
    def _scores_to_weigh(self) -> Prune:
        if (self.search or (self.rescore or 1) > 1) and not self.weighs_groups:
            raise ValueError(
                "search and rescore weigh groups against one another by their scores: with scope=layer or "
                "solver=sensitivity there is nothing to weigh"
            )
        return self


SCORING = {
    *("criterion", "fisher", "group_reduce", "normalize", "per_cost", "bn_fold", "mix_norm", "points_per_image"),
    *("calib_images", "seed"),
}
"""Of `Prune`, what decides which channels of a group go first."""

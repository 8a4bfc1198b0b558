"""Ultralytics' validator on data sets of this machine, for detectors that know their classes."""

from __future__ import annotations

from typing import Any

from ultralytics.models.yolo.detect import DetectionValidator

from yolo_slim.data.facts import dataset_info
from yolo_slim.data.guarded import local
from yolo_slim.data.names import ONE, check_names


class LocalValidator(DetectionValidator):
    """Nothing is downloaded or run, and names must agree.

    A detector of one class on a data set of several was trained with `single_cls` and is measured so.

    Raises:
        SlimError: a data set that is not here, or names classes otherwise than the detector.
    """

    # Ultralytics begins with None in both.
    names: dict[int, str]  # type: ignore[assignment]
    data: dict[str, Any]  # type: ignore[assignment]

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Ultralytics', see there."""
        if trainer is None:
            self.args.data = dataset_info(self.args.data, self.args.split)["yaml_file"]
        with local():
            return super().__call__(trainer, model, **kwargs)

    def get_dataloader(self, dataset_path: str, batch_size: int) -> Any:
        """Ultralytics', once it is known what the detector calls its classes."""
        if self.args.single_cls or (len(self.names) == 1 < self.data["nc"]):
            self.args.single_cls = True
            self.data = {**self.data, "names": dict(ONE), "nc": 1}
        else:
            check_names(self.names, self.data["names"], "the detector", self.data["yaml_file"])
        return super().get_dataloader(dataset_path, batch_size)

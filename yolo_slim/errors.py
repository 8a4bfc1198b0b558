"""The one exception that means: the input is wrong, and here is what to do about it; and a mark of one by others."""

from yolo_slim.text import lines


class SlimError(Exception):
    """What was expected, what came, where, and what to do. The command line prints it and exits with 2."""

    def __str__(self) -> str:
        """Names in it may come from a file, and a terminal obeys control characters."""
        return lines(super().__str__())


def no_images(error: RuntimeError) -> bool:
    """Whether this is Ultralytics' word for a data set in which it can read no image; it has no type of its own."""
    return "No valid images" in str(error)

"""The one exception that means: the input is wrong, and here is what to do about it; and a mark of one by others."""


class SlimError(Exception):
    """What was expected, what came, where, and what to do. The command line prints it and exits with 2."""


def no_images(error: RuntimeError) -> bool:
    """Whether this is Ultralytics' word for a data set in which it can read no image; it has no type of its own."""
    return "No valid images" in str(error)

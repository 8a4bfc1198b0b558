"""python -m yolo_slim: the command line, where its script is not on the path."""

import sys

from yolo_slim.cli import main

if __name__ == "__main__":
    sys.exit(main())

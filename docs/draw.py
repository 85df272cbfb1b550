"""Draw the pictures of docs/six-ideas.md again, from committed results.

python -m docs.draw
"""

import json
import os

from common import cli
from common.draw import study, style

_HERE = os.path.dirname(os.path.abspath(__file__))


def relu() -> None:
    """ReLU against tanh: training error by epochs."""
    with open(os.path.join(_HERE, "results", "relu.json"), encoding="utf-8") as file:
        save(study.training_error(json.load(file)), "relu")


def save(figure: object, name: str) -> None:
    """Write a picture of the pages."""
    path = os.path.join(_HERE, "pictures", f"{name}.png")
    style.write(figure, path)
    print(f"wrote {path}")


def main() -> None:
    """Draw all of them."""
    cli.ArgumentParser(__doc__).parse_args()
    style.check("docs/draw.py")
    relu()


if __name__ == "__main__":
    cli.run(main)

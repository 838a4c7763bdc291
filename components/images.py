"""Which image a component runs in."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version() -> str:
    """The package's version, which is the images' default tag.

    It is read from pyproject.toml because components may not import landseg.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def image(component: str) -> str:
    """The image of a component, e.g. `landseg-stage-data:0.1.0`.

    There is no registry in it: `python -m pipelines compile --registry` puts the one of the cluster in front.
    """
    return f"landseg-{component}:{version()}"

"""The committed YAML of the pipelines, which is what runs and is submitted.

Reading it takes no time. Building the pipelines anew takes seconds (:mod:`pipelines.dags.compile`), and only compiling
needs it.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from components.images import ROOT, version

COMPILED = ROOT / "pipelines" / "compiled"


def names() -> list[str]:
    """The pipelines, in alphabetical order."""
    return sorted(path.stem for path in COMPILED.glob("*.yaml"))


def package(pipeline: str) -> Path:
    """The committed YAML of a pipeline."""
    return COMPILED / f"{pipeline}.yaml"


def with_images(text: str, registry: str, tag: str) -> str:
    """Point the images of compiled YAML to a registry and a tag; the rest of the text is unchanged."""
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"].values()
    for image in sorted({executor["container"]["image"] for executor in executors}):
        name = image.rpartition("/")[2].rpartition(":")[0]
        prefix = f"{registry.rstrip('/')}/" if registry else ""
        text = text.replace(f"image: {image}\n", f"image: {prefix}{name}:{tag or version()}\n")
    return text

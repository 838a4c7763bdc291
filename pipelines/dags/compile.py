"""Compiles the pipelines and the components to the YAML that is committed and submitted."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from kfp import compiler

from components.average_probs.component import average_probs
from components.export_probs.component import export_probs
from components.images import ROOT
from components.models import MODELS
from components.plan_average.component import plan_average
from components.plan_export.component import plan_export
from components.plan_stage.component import plan_stage
from components.stage_data.component import stage_data
from pipelines.dags import step_limits
from pipelines.dags.packages import package, with_images
from pipelines.dags.predict import predict
from pipelines.dags.steps import STEPS
from pipelines.dags.train_and_ensemble import train_and_ensemble

COMPONENTS = {
    "plan_stage": plan_stage,
    "stage_data": stage_data,
    **{f"train_{name}": train for name, train in MODELS.items()},
    "plan_export": plan_export,
    "export_probs": export_probs,
    "plan_average": plan_average,
    "average_probs": average_probs,
}
"""Every component by the name of its folder."""

PIPELINES = {"train-and-ensemble": train_and_ensemble, "predict": predict, **STEPS}


def compile_text(component_or_pipeline: Any, registry: str = "", tag: str = "") -> str:
    """Compile to YAML.

    Args:
        component_or_pipeline: a kfp component or pipeline.
        registry: put in front of every image, e.g. `registry.example.org/team`.
        tag: of every image; the package's version by default.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns about optional inputs of nested pipelines, which is what we mean
        path = Path(folder) / "compiled.yaml"
        compiler.Compiler().compile(component_or_pipeline, str(path))
        text = path.read_text()
    if "\n---\n" in text:  # a pipeline: a component has no second document, which says where its pods run
        text = step_limits.told(text)
    return with_images(text, registry, tag) if registry or tag else text


def targets() -> dict[Path, Any]:
    """Every committed YAML file and what it is compiled from."""
    files: dict[Path, Any] = {package(name): pipeline for name, pipeline in PIPELINES.items()}
    for name, component in COMPONENTS.items():
        files[ROOT / "components" / name / "component.yaml"] = component
    return files

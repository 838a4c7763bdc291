"""The pipeline `predict`: label tiles with models that are already trained."""

from pipelines.dags.whole import make_pipeline

predict = make_pipeline(
    "predict",
    "Label tiles with two trained models: export their probabilities and average them.",
    trains=False,
)

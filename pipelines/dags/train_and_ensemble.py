"""The pipeline `train-and-ensemble`: stage the tiles, train the models side by side, average their probabilities."""

from pipelines.dags.whole import make_pipeline

train_and_ensemble = make_pipeline(
    "train-and-ensemble",
    "Train Swin-Base + UPerNet and ResNeSt-101 + DeepLabV3+, average their probabilities, report.",
)

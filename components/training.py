"""The training component of a model: the same container contract for every model, with an image of its own."""

from typing import Any

from kfp import dsl

from components.images import image


def train_component(name: str, image_of: str = "") -> Any:
    """Make the component `train-<name>`.

    Args:
        name: the model's name in a run; also the bundled config it trains by default.
        image_of: the model in whose image it runs, which can train any config; its own by default.
    """

    def train(
        model: dsl.Output[dsl.Model],
        metrics: dsl.Output[dsl.Metrics],
        report: dsl.Output[dsl.HTML],
        storage_uri: str,
        run_id: str,
        dataset: dsl.Input[dsl.Dataset] = None,
        dataset_uri: str = "",
        config: str = name,
        epochs: int = 0,
        batch_per_gpu: int = 0,
        lr: float = 0.0,
        seed: int = 0,
        train_splits: str = "train",
        pretrained: str = "",
        class_weights: str = "none",
        precision: str = "auto",
        gpus: int = 2,
    ) -> dsl.ContainerSpec:
        """Train a model with an mmsegmentation config; resumes from its own checkpoints.

        Args:
            model: reference to the model manifest.
            metrics: mIoU, mAcc, aAcc and IoU of each class on val.
            report: curves and metrics of the training.
            storage_uri: root in object storage, s3://bucket/prefix.
            run_id: names the run; results go to <storage_uri>/runs/<run_id>/.
            dataset: what stage-data wrote. Leave it out where dataset_uri is given.
            dataset_uri: URI of a dataset manifest, for a step run by itself.
            config: a bundled mmseg config, or the path or URI of one.
            epochs: 0 means the config's.
            batch_per_gpu: images per GPU and iteration; 0 means the config's.
            lr: learning rate; 0 means the config's.
            seed: of everything random.
            train_splits: splits to train on, comma-separated.
            pretrained: weights to start from: URL, s3:// URI, path or none; empty means the config's.
            class_weights: of the losses: none, inverse-frequency or sqrt-inverse-frequency.
            precision: auto, fp32, fp16 or bf16.
            gpus: processes to start, one per GPU; 0 trains on the CPU.
        """
        return dsl.ContainerSpec(
            image=image(f"train-{image_of or name}"),
            command=["landseg", "train"],
            args=[
                "--name",
                name,
                "--dataset",
                dataset_uri,
                "--config",
                config,
                "--epochs",
                epochs,
                "--batch-per-gpu",
                batch_per_gpu,
                "--lr",
                lr,
                "--seed",
                seed,
                "--train-splits",
                train_splits,
                "--pretrained",
                pretrained,
                "--class-weights",
                class_weights,
                "--precision",
                precision,
                "--gpus",
                gpus,
                "--storage-uri",
                storage_uri,
                "--run-id",
                run_id,
                "--executor-input",
                "{{$}}",
            ],
        )

    train.__name__ = f"train_{name}"  # KFP names the component after the function
    return dsl.container_component(train)

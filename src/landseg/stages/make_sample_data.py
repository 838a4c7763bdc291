"""`landseg make-sample-data`: draw a dataset to try landseg with."""

from __future__ import annotations

import argparse

from landseg.raw.processes import num_cpus
from landseg.sample.tiles import COMPRESSIONS, PIXEL_TYPES, SampleOptions, make_sample_dataset
from landseg.stages.shared.options import check_writable, local_folder

HELP = "draw a small labelled dataset to try landseg with"
EXAMPLE = "landseg make-sample-data tiles --train 64 --val 16 --test 16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    default = SampleOptions()
    parser.add_argument(
        "directory",
        type=local_folder,
        metavar="DIR",
        help="where to write it; an earlier run with the same options is completed",
    )
    group = parser.add_argument_group("how many tiles")
    for split in ("train", "val", "test"):
        group.add_argument(
            f"--{split}",
            type=int,
            default=getattr(default, split),
            metavar="N",
            help=f"number of {split} tiles{', which have no labels' if split == 'test' else ''}",
        )
    group = parser.add_argument_group("what to draw")
    group.add_argument(
        "--size",
        dest="size_px",
        type=int,
        default=default.size_px,
        metavar="PX",
        help="height and width of a tile, at about one metre a pixel",
    )
    group.add_argument(
        "--bands",
        type=int,
        choices=(3, 4),
        default=default.bands,
        help="3: red, green, blue; 4: and near-infrared",
    )
    group.add_argument(
        "--dtype",
        choices=PIXEL_TYPES,
        default=default.dtype,
        help="uint16 holds reflectance × 10,000",
    )
    group.add_argument(
        "--compression", choices=COMPRESSIONS, default=default.compression, help="compression of the TIFFs"
    )
    group.add_argument("--seed", type=int, default=default.seed, metavar="N", help="another seed draws other land")


def run(args: argparse.Namespace) -> None:
    """Draw the dataset."""
    options = SampleOptions(
        train=args.train,
        val=args.val,
        test=args.test,
        size_px=args.size_px,
        bands=args.bands,
        dtype=args.dtype,
        compression=args.compression,
        seed=args.seed,
    )
    check_writable("DIR", args.directory)
    make_sample_dataset(args.directory, options, num_processes=num_cpus())
    print(f"{args.directory}: {options.train} train, {options.val} val and {options.test} test tiles")

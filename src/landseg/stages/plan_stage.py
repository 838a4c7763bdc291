"""`landseg plan-stage`: the shares into which a staging is divided."""

from __future__ import annotations

import argparse

from landseg.contracts.parameters import add_parameter, check_values
from landseg.stages.shared.context import stage_context
from landseg.stages.shared.options import add_common_arguments, all_shares, check_handed_on

HELP = "divide a staging among workers: print each one's --worker"
EXAMPLE = "landseg plan-stage --workers 4 --storage-uri s3://bucket/landseg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_parameter(parser, "stage_workers")
    add_common_arguments(parser, run_id=False, files=False)


def run(args: argparse.Namespace) -> None:
    """Print the shares `1/N` to `N/N`."""
    check_values("plan-stage", args)
    with stage_context("plan-stage", args) as context:
        shares = all_shares(args.workers)
        check_handed_on(shares, args.workers)
        context.outputs.parameter("shares", shares)
        print("\n".join(shares))

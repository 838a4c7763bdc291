"""plan-stage: the shares that the workers of a staging take."""

from kfp import dsl

from components.factory import make_component

plan_stage = make_component(
    "plan-stage",
    "Divide a staging among workers.",
    inputs={},
    outputs={"shares": (dsl.OutputPath(list), 'what each worker is given, e.g. ["1/2", "2/2"]')},
    image_of="stage-data",
)

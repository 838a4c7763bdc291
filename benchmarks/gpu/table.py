"""The check's figures as the table for docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.plan import MODELS


def markdown(found: dict[str, Any]) -> str:
    """A table of what was measured, and the steps that failed."""
    figures = {name: step["figures"] for name, step in found["steps"].items() if step["ok"]}
    versions = figures.get("versions", {})
    on = versions.get("gpu") or versions.get("cpu", "an unknown machine")
    lines = [
        f"`make check-gpu` on {on}: torch {versions.get('torch', '?')}, Python {versions.get('python', '?')}, "
        f"CUDA {versions.get('cuda') or 'none'}, driver {versions.get('driver', 'none')}; {found['seconds']:.0f} s.",
        "",
        "| | " + " | ".join(MODELS) + " |",
        "|---|" + "---|" * len(MODELS),
    ]

    def row(title: str, step: str, key: str, form: str = "{}") -> None:
        values = [figures.get(f"{step}-{model}", {}).get(key) for model in MODELS]
        if any(value is not None for value in values):
            cells = ["–" if value is None else form.format(value) for value in values]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")

    alone = {model: figures.get(f"step-{model}", {}).get("images_per_s", {}) for model in MODELS}
    for name in dict.fromkeys(name for one in alone.values() for name in one):
        cells = [str(alone[model].get(name, "–")) for model in MODELS]
        lines.append(f"| step alone, {name}, images/s | " + " | ".join(cells) + " |")
    row("step alone, peak GPU memory, GiB", "step", "peak_gib")
    row("`landseg train`, images/s", "train", "images_per_s")
    row("the same as a share of the step alone", "train", "share_of_step_alone", "{:.1%}")
    row("`landseg train`, peak GPU memory, GiB", "train", "peak_gib")
    row("seconds from the result to the end of its process", "train", "end_after_result_s")
    row("`export-probs`, three views, tiles/s", "export", "tiles_per_s")
    row("forward passes alone, tiles/s", "export", "forward_alone")
    row("export as a share of them", "export", "share_of_forward_alone", "{:.1%}")
    row("plain mmsegmentation, fp32, three views, tiles/s", "export", "plain_mmseg")
    row("export against it", "export", "ratio_to_plain", "{:.2f} times")
    row("labels as in plain fp32", "export", "label_agreement", "{:.3%}")
    row("export, peak GPU memory, GiB", "export", "peak_gib")
    lines.append("")
    if "resume" in figures:
        lines.append(
            "- Killed and resumed with `--deterministic`: all weights of both tiny twins are equal to the bit."
        )
    if "two-processes" in figures:
        one = figures["two-processes"]
        lines.append(
            f"- Two processes on one device over gloo against one: losses differ by {one['largest_difference']:.1e} at "
            f"most, {one['sync_bn_layers']} SyncBN layers."
        )
    if "nccl" in figures:
        lines.append(f"- Groups of one process: {figures['nccl']['backends']['all']}; objects over gloo.")
    if "tests" in figures:
        lines.append(f"- Tests marked gpu: {figures['tests'].get('passed', 0)} passed.")
    for name, step in found["steps"].items():
        if not step["ok"]:
            lines.append(f"- **{name} failed**: {step['error']}")
    return "\n".join(lines) + "\n"

"""Commands in the documentation are understood, links lead somewhere, tables name what exists."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pages import ROOT, Block, anchors, blocks, links, pages, prose

from landseg.cli import main as cli
from pipelines import __main__ as pipelines_cli
from pipelines.options import parser

REMARKS = ("", "cluster", "docker", "slow", "ci", "apply")
BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.commands]


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_a_block_of_commands_is_executed_or_says_why_not(block: Block) -> None:
    assert block.language == "sh", "put commands into a block of ```sh, and nothing else into it"
    assert block.remark in REMARKS
    if block.remark == "ci":  # what prepares and runs these tests
        assert {tuple(command[:2]) for command in block.commands} <= {
            ("make", "setup"),
            ("make", "demo"),
            ("make", "check"),
        }


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_are_understood(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in block.commands:
        program, *arguments = command
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                if program == "landseg" and arguments[0] in cli.VERBS:
                    cli.stage_parser(arguments[0]).parse_args(_before_redirection(arguments[1:]))
                elif [program, *arguments[:2]] == ["python", "-m", "pipelines"]:
                    parser(pipelines_cli.COMMANDS, "").parse_args(_before_redirection(arguments[2:]))
            except SystemExit as end:
                if end.code:
                    pytest.fail(f"{' '.join(command)}: {said.getvalue()}")
        if program == "make":
            for word in arguments:
                name, is_variable, _ = word.partition("=")
                known = rf"\$\({name}\)|\$\${{?{name}\b|^{name} *\??=" if is_variable else rf"^{name}:"
                assert re.search(known, makefile, re.M), f"{word}: the Makefile does not know it"


def _before_redirection(arguments: list[str]) -> list[str]:
    return arguments[
        : next((n for n, word in enumerate(arguments) if word in {"|", "||", ">", "&&", "&", ";"}), len(arguments))
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "src|tests|docs|components|pipelines|docker|manifests|benchmarks|requirements"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)`", prose(page)):
        assert path.startswith("docs/adr") or list(ROOT.glob(path.rstrip("/"))), path


def test_the_picture_of_the_architecture_is_that_of_the_code() -> None:
    (layers,) = (
        contract["layers"]
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    from_rules = [{name.strip().removeprefix("landseg.") for name in re.split("[|:]", layer)} for layer in layers]
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    drawn: dict[int, set[str]] = {}
    for x, y, name in re.findall(r'<text x="(\d+)" y="(\d+)" class="mod"[^>]*>(\w+)</text>', picture):
        if int(x) > 300:  # the half that is landseg
            drawn.setdefault(int(y), set()).add(name)
    assert [drawn[y] for y in sorted(drawn)] == from_rules
    folder = ROOT / "src" / "landseg"
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"__init__", "__main__"} == set().union(*from_rules)
    assert all(f">{name}<" in picture for name in ("pipelines", "components"))


def test_make_help_lists_every_target_and_check_is_what_ci_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.M)[1].replace("\\\n", " ").split())
    command = ["make", "--no-print-directory", "help"]  # the tests may themselves run under make
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in help_text.splitlines()} == targets
    assert all(len(line.split()) > 2 for line in help_text.splitlines())
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make check")
    assert re.search(r"^check: lint test ", makefile, re.M)


def test_every_page_can_be_found() -> None:
    index = links(ROOT / "docs" / "README.md")
    listed = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in index}
    unlisted = [
        page for page in (ROOT / "docs").glob("*.md") if page.resolve() not in listed and page.name != "README.md"
    ]
    assert not unlisted
    records = links(ROOT / "docs" / "adr" / "README.md")
    assert {page.name for page in (ROOT / "docs" / "adr").glob("0*.md")} == set(records)

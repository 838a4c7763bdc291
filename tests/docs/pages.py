"""The pages of the documentation: their code blocks with the remarks that stand above them, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ("landseg", "make", "python", "python3", "pip", "kubectl", "kfp", "docker", "git", "export", "source")
"""What a line of a code block begins with that is a command."""

SHELLS = ("", "sh", "bash", "shell", "console")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)")
_REMARK = re.compile(r"^ *<!-- (?P<text>[^>]*) -->$")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: path of the page below the repository.
        line: of its first line, from 1.
        language: of the fence; empty for a block that is only indented.
        remark: text of the HTML comment directly above; empty where there is none.
        text: the code.
    """

    page: str
    line: int
    language: str
    remark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Its command lines, split as a shell splits them; those that are none are left out."""
        if self.language not in SHELLS:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.split() and line.split()[0] in PROGRAMS]


def pages() -> list[Path]:
    """Every page of the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    return sorted([*found, *(ROOT / "components").rglob("*.md"), *(ROOT / "manifests").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, fenced or indented by four spaces."""
    lines = page.read_text().splitlines()
    name, found, remark, number = str(page.relative_to(ROOT)), [], "", 0
    while number < len(lines):
        fence, said = _FENCE.match(lines[number]), _REMARK.match(lines[number])
        if fence:
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            body = [line.removeprefix(fence["indent"]) for line in lines[number + 1 : end]]
            found.append(Block(name, number + 2, fence["language"], remark, "\n".join(body) + "\n"))
            number = end
        elif lines[number].startswith("    ") and lines[number].strip() and not (number and lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line[4:] for line in lines[number:end]).rstrip() + "\n"
            found.append(Block(name, number + 1, "", remark, text))
            number = end - 1
        remark = said["text"] if said else remark if not lines[number].strip() else ""
        number += 1
    return found


def prose(page: Path) -> str:
    """The page without its fenced code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    slugs = [
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-") for heading in headings
    ]
    return {f"{slug}-{slugs[:n].count(slug)}" if slugs[:n].count(slug) else slug for n, slug in enumerate(slugs)}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page))

"""Documents of headings, paragraphs, tables and pictures, as Markdown or as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph, in which ``**bold**``, ``*italics*``, `code` and ``[links](to)`` mean what they do in Markdown."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table, the first column to the left and the others to the right.

    Args:
        head: names of the columns.
        rows: cells, marked up like a paragraph.
        marked: numbers of the rows that stand out.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Picture:
    """A picture.

    Args:
        name: of its file.
        svg: what it shows.
        caption: what one sees.
        narrow: shown at half the width of the page.
    """

    name: str
    svg: str
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class Fold:
    """Parts that are shown on demand."""

    title: str
    parts: Sequence[Heading | Text | Table | Picture]


Part = Heading | Text | Table | Picture | Fold


def to_markdown(parts: Sequence[Part], pictures: str) -> str:
    """The document as Markdown.

    Args:
        parts: of the document.
        pictures: the folder of the pictures' files, seen from the page.

    Example:
        >>> print(to_markdown([Heading("A", 1), Table(["x", "y"], [["a", "1"]])], "figures"))
        # A
        <BLANKLINE>
        | x | y |
        |---|---:|
        | a | 1 |
        <BLANKLINE>
    """
    return "\n\n".join(_markdown(part, pictures) for part in parts) + "\n"


def _markdown(part: Part, pictures: str) -> str:
    match part:
        case Heading():
            return f"{'#' * part.level} {part.text}"
        case Text():
            return part.text
        case Picture():
            return f"![{_plain(part.caption)}]({pictures}/{part.name}.svg)\n\n*{_plain(part.caption)}*"
        case Table():
            lines = [part.head, ["---", *("---:" for _ in part.head[1:])], *part.rows]
            rule = "|" + "|".join(lines[1]) + "|"
            return "\n".join(rule if line is lines[1] else "| " + " | ".join(line) + " |" for line in lines)
        case Fold():
            inside = "\n\n".join(_markdown(p, pictures) for p in part.parts)
            return f"<details><summary>{escape(part.title)}</summary>\n\n{inside}\n\n</details>"


def to_html(parts: Sequence[Part]) -> str:
    """The document as one HTML file with its pictures in it; the first part is its title."""
    style = files("experiments").joinpath("page.css").read_text(encoding="utf-8")
    title = next(escape(p.text) for p in parts if isinstance(p, Heading))
    body = "\n".join(_html(part) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _html(part: Part) -> str:
    match part:
        case Heading():
            return f"<h{part.level}>{_inline(part.text)}</h{part.level}>"
        case Text():
            return f"<p>{_inline(part.text)}</p>"
        case Picture():
            kind = ' class="narrow"' if part.narrow else ""
            return f"<figure{kind}>{part.svg}<figcaption>{_inline(part.caption)}</figcaption></figure>"
        case Table():
            head = "".join(f"<th>{_inline(cell)}</th>" for cell in part.head)
            mark = ' class="ours"'
            rows = [
                f"<tr{mark if i in part.marked else ''}>{''.join(f'<td>{_inline(c)}</td>' for c in row)}</tr>"
                for i, row in enumerate(part.rows)
            ]
            body = "".join(rows)
            return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        case Fold():
            inside = "\n".join(_html(p) for p in part.parts)
            return f"<details><summary>{escape(part.title)}</summary>{inside}</details>"


_MARKS = (
    (re.compile(r"\*\*([^*]+)\*\*"), r"<b>\1</b>"),
    (re.compile(r"\*([^*]+)\*"), r"<i>\1</i>"),
    (re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)"), r'<a href="\2">\1</a>'),
)


def _inline(text: str) -> str:
    """Marks inside a paragraph; what is code has no other marks in it."""
    out = []
    for i, piece in enumerate(text.split("`")):
        piece = escape(piece, quote=False)
        if i % 2:
            out.append(f"<code>{piece}</code>")
            continue
        for pattern, to in _MARKS:
            piece = pattern.sub(to, piece)
        out.append(piece)
    return "".join(out)


def _plain(text: str) -> str:
    return re.sub(r"[*`]", "", text)

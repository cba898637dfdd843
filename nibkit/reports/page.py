"""An executed notebook as a page that needs no network: its figures are files beside it, its formulas MathML, and its
links lead to the other pages.
"""

import base64
import functools
import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jinja2
import latex2mathml.converter
import nbformat
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

FIGURES = "figures"  # the folder, beside a run's tables, of the figures that its page shows
ANSWER = re.compile(r"\*\*Answer\.\*\*\s*(.+?)\s*(?:\n\s*\n|\Z)", re.DOTALL)
# What a cell says to other programs: the fields of Colab's form, and what nbval compares.
NOTES = re.compile(r"@param \{[^}]*\} # |  # @param \{[^}]*\}$|^# NBVAL_\w+\n", re.MULTILINE)
SHOWN = ("image/png", "text/html", "text/markdown", "text/plain")  # the first of them that an output has


class Markdown(IPythonRenderer):
    """Markdown to HTML, where a tag that stands in it is shown as it is; `headings` collects (level, id, text).

    resolve: takes the address in a link and returns the one that it has on the page.
    """

    def __init__(self, resolve: Callable[[str], str] = str):
        super().__init__(escape=True)
        self.resolve, self.headings = resolve, []

    def html(self, source: str) -> str:
        """A piece of Markdown as HTML; the headings of all pieces have ids of their own."""
        return MarkdownWithMath(self).render(source)

    def text(self, text: str) -> str:
        """Text between tags."""
        return html.escape(html.unescape(text), quote=False)  # as Jupyter shows it: &lt; is a <

    def heading(self, text: str, level: int, **attrs) -> str:
        plain = html.unescape(re.sub("<[^>]+>", "", text))
        name = slug(plain)
        name += f"-{len(self.headings)}" if name in {known for _, known, _ in self.headings} else ""
        self.headings.append((level, name, plain))
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to where `resolve` says."""
        return super().link(text, self.resolve(url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if re.match("(https?:)?//", url):  # a badge would be fetched, its text is not
            return text
        return super().image(text, self.resolve(url), title)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def slug(heading: str) -> str:
    """The id of a heading, as written or as links write it."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def mathml(formula: str, display: str = "inline") -> str:
    """LaTeX as MathML, or as it was written where it cannot be read."""
    try:  # the converter knows `aligned` by another name only
        return latex2mathml.converter.convert(formula.replace("{aligned}", "{split}"), display=display)
    except Exception:  # its errors have no class in common, and a formula is no reason to lose a page
        return f"<code>{html.escape(formula)}</code>"


def answer(nb: nbformat.NotebookNode) -> str:
    """The paragraph, written or displayed, that begins with **Answer.**, in Markdown; "" where there is none."""
    for cell in nb.cells:
        shown = [output.data.get("text/markdown", "") for output in cell.get("outputs", []) if "data" in output]
        for text in [cell.source] if cell.cell_type == "markdown" else shown:
            if found := ANSWER.search(text):
                return found[1]
    return ""


def described(nb: nbformat.NotebookNode, name: str) -> tuple[str, str]:
    """Of the figure that a cell saves under this name: the paragraph below it, in Markdown, and its `alt`."""
    for cell, below in zip(nb.cells, [*nb.cells[1:], None]):
        if cell.cell_type == "code" and f'"{name}"' in cell.source:
            text = below.source.strip() if below and below.cell_type == "markdown" else ""
            caption = "" if text.startswith("#") else re.split(r"\n\s*\n", text)[0]
            return caption, next(filter(None, map(alt, cell.outputs)), "")
    return "", ""


def alt(output: nbformat.NotebookNode) -> str:
    """What a figure shows, in the words that `nibkit.plots.theme` has put beside it; "" where it has not."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def folded(cell: nbformat.NotebookNode) -> str:
    """What to call a cell that a reader passes over; "" for one that is read."""
    if cell.get("id") == "colab":
        return "Install"
    return "Imports" if re.match("(from|import) ", cell.source) else ""


def cells(nb: nbformat.NotebookNode, markdown: Markdown, folder: Path) -> list[dict]:
    """The cells as the template takes them, as HTML; figures are written into folder/FIGURES, which is made anew."""
    highlight, made = Highlight2HTML(pygments_lexer="ipython3"), []
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            made.append({"text": markdown.html(cell.source)})
        elif cell.cell_type == "code":
            outputs = [_output(output, markdown, folder) for output in cell.outputs]
            made.append({"code": highlight(NOTES.sub("", cell.source)), "folded": folded(cell), "outputs": outputs})
    return made


def _output(output: nbformat.NotebookNode, markdown: Markdown, folder: Path) -> str:
    if output.output_type in ("stream", "error"):
        text = output.text if output.output_type == "stream" else "\n".join(output.traceback)
        return f"<pre>{ansi2html(text)}</pre>"
    kind = next((kind for kind in SHOWN if kind in output.data), None)
    if kind == "image/png":
        figures = folder / FIGURES
        figures.mkdir(parents=True, exist_ok=True)
        file = figures / f"{len(list(figures.iterdir())) + 1}.png"
        file.write_bytes(base64.b64decode(output.data[kind]))
        words = alt(output) or f"Figure in: {markdown.headings[-1][2] if markdown.headings else folder.name}"
        return render("figure", url=f"{folder.name}/{FIGURES}/{file.name}", alt=words)
    if kind == "text/markdown":
        return markdown.html(output.data[kind])
    return output.data[kind] if kind == "text/html" else f"<pre>{html.escape(output.data.get(kind, ''))}</pre>"


@functools.cache
def _templates() -> jinja2.Environment:
    folder = Path(__file__).with_name("templates")
    loader = jinja2.FileSystemLoader(folder, encoding="utf-8")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    templates.globals["highlighting"] = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    return templates


def render(template: str, **context) -> str:
    """One of the templates/, filled; what is HTML already is marked as safe there, all else is escaped."""
    return _templates().get_template(f"{template}.html.j2").render(context)

"""Text as CSV and LaTeX take it."""

import csv
from collections.abc import Iterable, Iterator, Sequence

from experiments.models.cell import number_of

#: What makes a spreadsheet take a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}  # fmt: skip


class _Echo:
    """A file that hands out what is written to it."""

    def write(self, text: str) -> str:
        return text


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """With a mark by which spreadsheets know UTF-8."""
    writer = csv.writer(_Echo())
    yield "\ufeff"
    for row in rows:
        yield writer.writerow([csv_cell(value) for value in row])


def csv_cell(value: object) -> object:
    """A text that a spreadsheet would calculate gets an apostrophe in front; numbers stay."""
    if not isinstance(value, str) or number_of(value) is not None:
        return value
    return f"'{value}" if value.lstrip().startswith(_FORMULA) else value


def latex_text(text: str) -> str:
    """As it is printed, on one line."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def latex_table(headers: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table for the package booktabs.

    Args:
        headers: of each column its text, and whether it is of numbers.
        rows: cells that are LaTeX already.
    """
    spec = "".join("r" if is_number else "l" for _text, is_number in headers)
    head = " & ".join(latex_text(text) for text, _is_number in headers)
    lines = [f"{' & '.join(row)} \\\\" for row in rows]
    return "\n".join(
        ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{{spec}}}", "\\toprule", f"{head} \\\\",
         "\\midrule", *lines, "\\bottomrule", "\\end{tabular}", ""]
    )  # fmt: skip

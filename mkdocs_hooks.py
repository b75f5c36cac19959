"""Run the notebooks of docs/notebooks when the site is built, make a page of each; set equations.

Equations are LaTeX in ```math fences, as on GitHub. They become MathML, which browsers set without
a script. Wide ones scroll by themselves, so that a page fits on a phone.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

#: seconds that one cell may take
LONGEST = 120
#: a link to a notebook's file, which leads to its page on the site
NOTEBOOK = re.compile(r"(\]\([^)\s]*notebooks/\w+)\.ipynb\)")
EQUATION = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, and its pictures, for each notebook."""
    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=LONGEST, kernel_name="python3").execute()
        text, resources = MarkdownExporter().from_notebook_node(notebook)
        note = f"*This page is a [notebook]({path.name}), run when the site was built.*"
        title, _, rest = text.lstrip().partition("\n")
        page = f"{title}\n\n{note}\n{rest}"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the equations of a page, and link to the pages of notebooks."""
    markdown = NOTEBOOK.sub(r"\1.md)", markdown)
    box = '<div class="math" style="overflow: auto hidden; padding: .4em 0">{}</div>'
    return EQUATION.sub(lambda found: box.format(convert(found[1], display="block")), markdown)

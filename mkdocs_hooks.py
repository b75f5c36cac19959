"""Run the notebooks of docs/notebooks when the site is built, and make a page of each."""

from __future__ import annotations

from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

#: seconds that one cell may take
LONGEST = 120


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

"""Tutorials are percent `.py` files, and the build runs them: what a page shows is what the code printed and drew.

Each `docs/tutorials/NAME.py` becomes the page `tutorials/NAME.md`. Its cells run in order in a fresh kernel of the
Python that builds the site, in an empty folder; text that is printed follows the cell, figures are written beside the
page. An exception stops the build and names the file, the line and the cell.
"""

import base64
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

CELL_TIMEOUT_SECONDS = 300

# Opaque white: figures hold photographs and colours that must not be inverted, so a dark page shows them as a card.
_FIGURE_STYLE = {"figure.facecolor": "white", "savefig.facecolor": "white", "figure.figsize": (7.0, 4.0)}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # what a progress bar drew before its last state


def on_files(files, config):
    tutorials = [file for file in files if file.src_uri.startswith("tutorials/") and file.src_uri.endswith(".py")]
    # A kernel mostly waits for imports and compilation, so they run beside each other.
    with ThreadPoolExecutor() as pool:
        executed = list(pool.map(lambda file: execute(Path(file.abs_src_path)), tutorials))
    for file, (page, figures) in zip(tutorials, executed, strict=True):
        files.append(File.generated(config, file.src_uri.removesuffix(".py") + ".md", content=page))
        for name, png in figures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=png))
    return files


def execute(source: Path) -> tuple[str, dict[str, bytes]]:
    """Run a percent file; give the page as Markdown and its figures, named by their path beside the page."""
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        client = NotebookClient(
            notebook,
            kernel_name=NATIVE_KERNEL_NAME,
            timeout=CELL_TIMEOUT_SECONDS,
            resources={"metadata": {"path": str(work)}},
            coalesce_streams=True,
            extra_arguments=["--InlineBackend.figure_formats=retina", f"--InlineBackend.rc={_FIGURE_STYLE}"],
        )
        kernel = client.create_kernel_manager()
        # No folder is searched, so the kernel is the build's own Python and not one that somebody registered.
        kernel.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        kernel.connection_file = str(Path(folder, "kernel.json"))
        if os.name == "posix":
            kernel.transport = "ipc"  # what runs here is for this build alone: no port is opened
        with client.setup_kernel(env=_environment(folder)):
            line_of = _line_numbers(notebook, text)
            for index, cell in enumerate(notebook.cells):
                try:
                    client.execute_cell(cell, index)
                except (CellControlSignal, DeadKernelError) as error:
                    where = f"{source}, line {line_of[index]}, cell {index + 1}"
                    raise PluginError(f"{where} failed.\n{_reason(error)}") from None
    return _to_markdown(notebook, source)


def _environment(folder):
    """The build's environment, without what a person's own IPython would run first, figures in the page, on the CPU."""
    inline = "module://matplotlib_inline.backend_inline"  # a build under MPLBACKEND=Agg would show no figure
    ours = {"IPYTHONDIR": folder, "MPLBACKEND": inline, "JAX_PLATFORMS": "cpu", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"} | ours


def _line_numbers(notebook, text):
    """The line on which each cell's code begins in the file."""
    lines, end = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            whole_lines = re.compile(f"^{re.escape(cell.source)}$", re.MULTILINE)
            if found := whole_lines.search(text, end):
                lines.append(text.count("\n", 0, found.start()) + 1)
                end = found.end()
                continue
        lines.append(text.count("\n", 0, end) + 1)
    return lines


def _reason(error):
    if isinstance(error, CellExecutionError):
        return _ANSI.sub("", error.traceback)
    return str(error)


def _to_markdown(notebook, source):
    parts, figures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip():
            parts.append(_fence(cell.source, "python"))
            parts.extend(_output(output, cell, source.stem, figures) for output in cell.outputs)
        elif cell.cell_type == "markdown":
            parts.append(cell.source)
    link = f"[Download this page as a Python file]({source.name}){{ .download download={source.name} }}"
    title = next((i + 1 for i, part in enumerate(parts) if part.startswith("# ")), 0)
    if title and "\n" in parts[title - 1]:
        heading, _, rest = parts[title - 1].partition("\n")
        parts[title - 1 : title] = [heading, rest]
    parts.insert(title, link)
    return "\n\n".join(parts) + "\n", figures


def _output(output, cell, stem, figures):
    if output.output_type == "stream":
        return _fence(output.text, "text", "output")
    if png := output.data.get("image/png"):
        name = f"{stem}_files/figure-{len(figures) + 1}.png"
        figures[name] = base64.b64decode(png)
        alternative = cell.metadata.get("alt", f"Figure {len(figures)}")
        width = output.metadata.get("image/png", {}).get("width")
        return f"![{alternative}]({name}){{ .figure{f' width={width}' if width else ''} }}"
    return _fence(output.data.get("text/plain", ""), "text", "output")


def _fence(text, language, *classes):
    text = _OVERWRITTEN.sub("", _ANSI.sub("", text)).rstrip("\n")
    mark = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{mark}{{ {' '.join(f'.{name}' for name in (language, *classes))} }}\n{text}\n{mark}"

"""The examples in the docstrings and on the pages, and that there are some."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import normc

ROOT = Path(__file__).parents[1]
PUBLIC = {name: getattr(normc, name) for name in normc.__all__}


def documented():
    for name, thing in PUBLIC.items():
        yield name, thing.__doc__
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if not key.startswith("_") and getattr(member, "__doc__", None):
                    yield f"{name}.{key}", inspect.getdoc(getattr(thing, key))
    for key in ("freeze", "unfreeze", "train", "eval", "backward", "state_dict", "load_state_dict",
                "__call__", "parameters", "gradients", "zero_grad", "reset_parameters"):
        yield f"Layer.{key}", inspect.getdoc(getattr(normc.LayerNorm, key))
    yield "normc", normc.__doc__
    reference = importlib.import_module("normc.reference")
    for name in reference.__all__:
        yield f"reference.{name}", getattr(reference, name).__doc__


DOCUMENTED = list(documented())


def run(text, name, names, line=0):
    """Runs the examples in a text, which see and leave `names`."""
    example = doctest.DocTestParser().get_doctest(text, names, name, name, line)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE |
                                   doctest.ELLIPSIS)
    output = []
    runner.run(example, out=output.append, clear_globs=False)
    names.update(example.globs)
    assert runner.failures == 0, "".join(output)
    return len(example.examples)


@pytest.mark.parametrize("name, doc", DOCUMENTED, ids=[name for name, _ in DOCUMENTED])
def test_docstring(name, doc):
    assert doc and doc.strip()
    run(doc, name, {"np": np, "normc": normc})


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert ">>>" in PUBLIC[name].__doc__


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page):
    """Its blocks of Python, one after the other, as a reader would type them."""
    text, names, count = page.read_text(), {}, 0
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        code, line = block[1], text.count("\n", 0, block.start(1))
        if code.startswith(">>>"):
            count += run(code, page.name, names, line)
        else:
            exec(compile("\n" * line + code, page.name, "exec"), names)
            count += 1
    assert count


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*/README.md")],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """Files that a page points at are there."""
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert all((page.parent / target).exists() for target in targets), targets

"""The examples in the docstrings, and that there are some."""

import doctest
import importlib
import inspect

import numpy as np
import pytest

import normc

PUBLIC = {name: getattr(normc, name) for name in normc.__all__}


def documented():
    for name, thing in PUBLIC.items():
        yield name, thing.__doc__
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if not key.startswith("_") and getattr(member, "__doc__", None):
                    yield f"{name}.{key}", inspect.getdoc(getattr(thing, key))
    yield "normc", normc.__doc__
    reference = importlib.import_module("normc.reference")
    for name in reference.__all__:
        yield f"reference.{name}", getattr(reference, name).__doc__


DOCUMENTED = list(documented())


@pytest.mark.parametrize("name, doc", DOCUMENTED, ids=[name for name, _ in DOCUMENTED])
def test_docstring(name, doc):
    assert doc and doc.strip()
    example = doctest.DocTestParser().get_doctest(doc, {"np": np, "normc": normc}, name, None, 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    output = []
    runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert ">>>" in PUBLIC[name].__doc__ or name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")

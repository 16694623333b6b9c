"""The public names are the ones a reader of the package's first screen sees."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import keyimport
from keyimport import errors


def test_all_is_sorted_and_importable() -> None:
    """`__all__` lists each name once, in order, and each exists."""
    assert keyimport.__all__ == sorted(set(keyimport.__all__))
    assert [name for name in keyimport.__all__ if not hasattr(keyimport, name)] == []


def test_all_is_complete() -> None:
    """What the package imports for its users, when it is asked for, it also lists."""
    assert [name for name in keyimport.__all__ if name not in dir(keyimport)] == []
    for name in keyimport.__all__:
        getattr(keyimport, name)

    public = {name for name, value in vars(keyimport).items() if name[0] != "_" and not inspect.ismodule(value)}

    assert public == set(keyimport.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """What is loaded late is imported at once for them, each name from a module that has it."""
    (branch,) = (node for node in ast.parse(inspect.getsource(keyimport)).body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert sorted(imported) == keyimport.__all__
    for name, module in imported.items():
        assert getattr(keyimport, name) is getattr(importlib.import_module(module or ""), name)


def test_the_package_itself_loads_nothing_else() -> None:
    """The command line begins, and can be interrupted, before what takes its time."""
    heavy = "{'google', 'cryptography', 'grpc', 'click', 'rich'}"
    script = f"import sys, keyimport.cli; assert keyimport.errors; print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout  # noqa: S603 -- our own interpreter

    assert loaded == "set()\n"


def test_every_error_is_exported() -> None:
    """No error can be raised that cannot be caught by a public name."""
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == "keyimport.errors"
    }

    assert classes <= set(keyimport.__all__)


def test_every_error_stands_in_the_tree() -> None:
    """The tree in the docstring of `keyimport.errors` shows each class."""
    words = set((errors.__doc__ or "").split())

    assert [name for name in keyimport.__all__ if hasattr(errors, name) and name not in words] == []


def test_the_client_needs_neither_the_broker_nor_aws() -> None:
    """A caller's process loads nothing of keybroker or of the AWS SDK."""
    script = "import sys, keyimport; print({name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout  # noqa: S603 -- our own interpreter

    assert "'keyimport'" in loaded
    assert not {"keybroker", "botocore", "aiobotocore", "boto3"} & {name.strip("'{} \n") for name in loaded.split(",")}


def test_wrapping_loads_no_network_code() -> None:
    """Whoever wraps on a machine without a network needs no gRPC for it."""
    script = "import sys; from keyimport import wrap, Parameters, MaterialUnsuitable; print('grpc' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout  # noqa: S603 -- as above

    assert loaded == "False\n"


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    """The name that is loaded late does not make every other one seem to exist."""
    assert not hasattr(keyimport, "KeyImportClinet")

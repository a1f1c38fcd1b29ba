"""Runs the functions of a module whose names begin with `test_`, and counts.

Where DOTS_TEST_RESULTS names a folder, what passed is also written there, for `compatibility.py`.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import traceback

URL = os.environ["DOTS_TEST_URL"]
KEY = os.environ["DOTS_TEST_KEY"]
MODEL = os.environ["DOTS_TEST_MODEL"]
CONTEXT = int(os.environ["DOTS_TEST_CONTEXT"])


def run(name, module, package=None):
    """`package`: the client's name on PyPI, whose version is written down."""
    cases = {}
    for test_name, test in list(module.items()):
        if not test_name.startswith("test_") or not callable(test):
            continue
        try:
            test()
            cases[test_name] = True
        except Exception:
            cases[test_name] = False
            print(f"{name}: {test_name} failed", file=sys.stderr)
            traceback.print_exc()
    passed = sum(cases.values())
    failed = len(cases) - passed
    print(f"{name}: {passed} passed, {failed} failed", flush=True)
    if folder := os.environ.get("DOTS_TEST_RESULTS"):
        version = importlib.metadata.version(package) if package else ""
        result = {"client": name, "version": version, "cases": cases}
        pathlib.Path(folder, f"{name}.json").write_text(json.dumps(result))
    sys.exit(1 if failed or not passed else 0)

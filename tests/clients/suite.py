"""Runs the functions of a module whose names begin with `test_`, and counts."""

import os
import sys
import traceback

URL = os.environ["DOTS_TEST_URL"]
KEY = os.environ["DOTS_TEST_KEY"]
MODEL = os.environ["DOTS_TEST_MODEL"]
CONTEXT = int(os.environ["DOTS_TEST_CONTEXT"])


def run(name, module):
    passed = failed = 0
    for test_name, test in list(module.items()):
        if not test_name.startswith("test_") or not callable(test):
            continue
        try:
            test()
            passed += 1
        except Exception:
            failed += 1
            print(f"{name}: {test_name} failed", file=sys.stderr)
            traceback.print_exc()
    print(f"{name}: {passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)

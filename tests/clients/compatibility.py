"""Writes docs/compatibility.md from what the suites left in a folder: compatibility.py FOLDER DOTS_VERSION."""

import json
import pathlib
import sys

results = [json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))]
# Suites without a client of somebody else's are no matter of compatibility.
OURS = ("abuse", "terminal")
results = [result for result in results if result["client"] not in OURS]
print("# Clients that work with `dots serve`\n")
print(f"Made by `tests/clients/run.sh && tests/clients/more.sh` with {sys.argv[2]}; do not edit.\n")
print("| client | version | cases | passed |\n| --- | --- | --: | --: |")
for result in results:
    cases = result["cases"]
    print(f"| {result['client']} | {result['version'] or 'none'} | {len(cases)} | {sum(cases.values())} |")
for result in results:
    print(f"\n## {result['client']}\n")
    for name, passed in result["cases"].items():
        words = name.removeprefix("test_").replace("_", " ")
        print(f"- {words}{'' if passed else ': **fails**'}")

#!/usr/bin/env python3
"""Asks a model all held-out questions and checks its answers exactly.

    python3 runs/nano/evaluate.py --dots DOTS --model MODEL --held heldout.jsonl --out scores.json
    python3 runs/nano/evaluate.py --dots DOTS --url http://127.0.0.1:8000 --held heldout.jsonl --out scores.json

Asked greedily, each question alone, through `dots batch`, or of a server with OpenAI's API. scores.json holds every answer with its checks and
a table by kind and language; the table is printed too. What is checked:

    facts           the answer has the whole command, or all words, that the fact names
    commands exist  of all answers that name a command or flag of dots between backticks, those of which the program's help knows all
    sums            the last number of the answer is the result
    glossary        the answer has the translation
    refusals        the answer says that it does not know (out of scope); refused in scope: one of the other kinds that says so
    language        the answer is in the question's language, without what it quotes
    ends            the answer ended by itself, within its tokens
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import subprocess
import tempfile
import urllib.request

import commands
import talk

LANGUAGES = ("en", "zh", "ko")
MAX_TOKENS = 160
# Names and code are Latin in every language, and quoted words are in another one.
QUOTED = re.compile(r"`[^`]*`|“[^”]*”|\"[^\"]*\"|https?://\S+")


def language(text):
    """The language of an answer by its letters: en, zh, ko, or None where nothing says."""
    text = QUOTED.sub(" ", text)
    hangul, han, latin = (len(re.findall(pattern, text)) for pattern in (r"[가-힣]", r"[一-鿿]", r"[A-Za-z]"))
    if hangul:
        return "ko" if hangul >= han else "zh"
    if han:
        return "zh"
    return "en" if latin else None


def body(row, model):
    return {"model": model, "messages": [{"role": "user", "content": row["question"]}], "temperature": 0, "max_tokens": MAX_TOKENS}


def ask_batch(dots, model, rows):
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = pathlib.Path(folder, "in.jsonl"), pathlib.Path(folder, "out.jsonl")
        with open(asked, "w") as file:
            for i, row in enumerate(rows):
                line = {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body(row, "nano")}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        subprocess.run([dots, "batch", asked, "-o", answered, model, "--served-model-name", "nano", "--max-model-len", "512"], check=True)
        found = {}
        for line in answered.read_text().splitlines():
            answer = json.loads(line)
            if answer.get("error"):
                raise SystemExit(f"question {answer['custom_id']}: {answer['error']}")
            found[int(answer["custom_id"])] = answer["response"]["body"]["choices"][0]
    return [found[i] for i in range(len(rows))]


def ask_server(url, rows):
    model = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]["id"]

    def one(row):
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body(row, model)).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=600))["choices"][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, rows))


def check(row, answer, ended, help_):
    """What is true of an answer: name → bool, of the checks that apply."""
    found = language(answer)
    # A sum may be answered without any word.
    checks = {"language": found == row["language"] or found is None and row["kind"].startswith("sums"), "ends": ended}
    refused = talk.MARKS[row["language"]] in answer
    if row["kind"] == "refusals":
        checks["refused"] = refused
    else:
        checks["not refused"] = not refused
    if row["kind"] == "facts":
        checks["right"] = all(word in answer for word in row["must"]) if row["must"] else answer.strip() == row["answer"]
    if row["kind"].startswith("sums"):
        numbers = re.findall(r"-?\d+", answer.replace(",", ""))
        checks["right"] = bool(numbers) and int(numbers[-1]) == row["result"]
    if row["kind"] == "glossary":
        checks["right"] = any(f"“{word}”" in answer for word in row["must"])
    if help_.named(answer):
        checks["commands exist"] = not help_.wrong(answer)
    return checks


# Line of the table: (its kinds, its check, what is to be reached in percent).
LINES = {
    "use of the program": (("facts",), "right", 75),
    "commands that exist": (None, "commands exist", 98),
    "sums of 1 and 2 digits": (("sums-1-2",), "right", 95),
    "sums of 3 digits": (("sums-3",), "right", 75),
    "glossary": (("glossary",), "right", 90),
    "refused out of scope": (("refusals",), "refused", 80),
    "refused in scope": (("facts", "sums-1-2", "sums-3", "glossary"), "not refused", 95),
    "language right": (None, "language", 98),
    "ends by itself": (None, "ends", 99),
}


def table(results):
    lines = []
    for name, (kinds, what, goal) in LINES.items():
        cells = {}
        for wanted in LANGUAGES:
            kept = [r["checks"][what] for r in results if r["language"] == wanted and (kinds is None or r["kind"] in kinds) and what in r["checks"]]
            share = 100 * sum(kept) / len(kept) if kept else None
            # What must not happen is told as how often it did.
            cells[wanted] = (100 - share if name == "refused in scope" and kept else share, len(kept))
        bar = f"≤ {100 - goal} %" if name == "refused in scope" else f"≥ {goal} %"
        lines.append({"name": name, "goal": bar, **{wanted: {"percent": None if p is None else round(p, 1), "questions": n} for wanted, (p, n) in cells.items()}})
    return lines


def show(lines):
    print("| | goal | en | zh | ko |\n| --- | --- | ---: | ---: | ---: |")
    for line in lines:
        cells = [f"{line[wanted]['percent']} ({line[wanted]['questions']})" for wanted in LANGUAGES]
        print(f"| {line['name']} | {line['goal']} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dots", required=True)
    parser.add_argument("--model")
    parser.add_argument("--url")
    parser.add_argument("--held", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--every", type=int, default=1, help="ask one question in so many, for a quick look")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in pathlib.Path(arguments.held).read_text().splitlines()][:: arguments.every]
    if arguments.url:
        choices = ask_server(arguments.url.rstrip("/"), rows)
    elif arguments.model:
        choices = ask_batch(arguments.dots, arguments.model, rows)
    else:
        parser.error("expected --model or --url")
    help_ = commands.Help(arguments.dots)
    results = []
    for row, choice in zip(rows, choices):
        answer = choice["message"]["content"] or ""
        results.append({**row, "said": answer, "checks": check(row, answer, choice["finish_reason"] == "stop", help_)})
    lines = table(results)
    counted = collections.Counter(row["kind"] for row in rows)
    scores = {"model": arguments.model or arguments.url, "questions": dict(counted), "table": lines, "answers": results}
    pathlib.Path(arguments.out).write_text(json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    show(lines)


if __name__ == "__main__":
    main()

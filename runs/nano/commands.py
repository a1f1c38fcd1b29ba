"""Which commands of `dots` exist: what its help says, and whether a text names anything else.

    python3 runs/nano/commands.py DOTS [FILE.jsonl...]

checks every command and flag in the facts, and in the answers of chat files, against the help of the program DOTS; it ends with status 1 and a list
where one does not exist.
"""

import json
import pathlib
import re
import subprocess
import sys

import facts

FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
# What the chat of the terminal answers to (crates/dots/src/transcript.rs), and what a server does (docs/api.md, docs/operations.md).
SLASH = {"/system", "/reset", "/save", "/exit", "/help"}


class Help:
    """The subcommands of a program and the flags of each."""

    def __init__(self, dots):
        self.dots = dots
        self.flags = {"": self.read([])}
        for name in self.subcommands([]):
            self.flags[name] = self.read([name])
            for inner in self.subcommands([name]):
                self.flags[f"{name} {inner}"] = self.read([name, inner])

    def help(self, words):
        return subprocess.run([self.dots, *words, "--help"], check=True, capture_output=True, text=True).stdout

    def subcommands(self, words):
        block = re.search(r"^Commands:\n((?:  .*\n)+)", self.help(words), re.M)
        names = re.findall(r"^  ([a-z-]+) ", block.group(1), re.M) if block else []
        return [name for name in names if name != "help"]

    def read(self, words):
        text = self.help(words).split("\nExamples:")[0]
        flags = set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z0-9-]*)", text, re.M))
        for aliases in re.findall(r"\[alias(?:es)?: ([^\]]*)\]", text):
            flags |= {alias.strip() for alias in aliases.split(",")}
        return flags | {"--help"}

    def wrong(self, text):
        """What in `text` looks like a command or flag of dots and is none. Commands are looked for between backticks."""
        wrong = []
        every = set().union(*self.flags.values())
        for code in re.findall(r"`([^`]*)`", text):
            for part in re.split(r"[|;]|&&", code):
                words = re.sub(r"^(?:\s*[A-Z][A-Z_]*=\S*)+", "", part).split()
                if not words or words[0] != "dots":
                    if words and not FLAG.match(words[0]):
                        continue  # another program's
                    wrong += [flag for flag in FLAG.findall(part) if flag not in every]
                    continue
                if words[1:2] == [] or words[1].startswith("-"):
                    wrong += [flag for flag in FLAG.findall(part) if flag not in self.flags[""]]
                    continue
                if words[1] not in self.flags:
                    wrong.append(f"dots {words[1]}")
                    continue
                name = f"{words[1]} {words[2]}" if len(words) > 2 and f"{words[1]} {words[2]}" in self.flags else words[1]
                wrong += [f"dots {name} {flag}" for flag in FLAG.findall(part) if flag not in self.flags[name]]
            if re.fullmatch(r"/[a-z]+(?: [A-Z]+)?", code) and code.split()[0] not in SLASH | ADDRESSES:
                wrong.append(code)
        return wrong

    def named(self, text):
        """How many commands, flags and chat commands `text` names between backticks."""
        return sum(1 for code in re.findall(r"`([^`]*)`", text) if re.search(r"(?:^|\s)dots(?:\s|$)", code) or FLAG.search(code) or code.split()[:1] and code.split()[0] in SLASH)


ADDRESSES = {"/docs", "/health", "/ready", "/metrics", "/version", "/tokenize", "/detokenize"}


def main(dots, files):
    help_ = Help(dots)
    wrong = []
    for fact in facts.read():
        for language in facts.LANGUAGES:
            wrong += [(fact.name, language, what) for what in help_.wrong(fact.answer(language))]
            wrong += [(fact.name, language, what) for phrase in fact.phrases[language] for what in FLAG.findall(phrase)
                      if what not in set().union(*help_.flags.values())]
    for file in files:
        for number, line in enumerate(pathlib.Path(file).read_text().splitlines(), 1):
            for message in json.loads(line)["messages"]:
                if message["role"] == "assistant":
                    wrong += [(file, number, what) for what in help_.wrong(message["content"])]
    for row in wrong:
        print(*row, sep="\t")
    print(f"{len(facts.read())} facts, {len(wrong)} commands that do not exist", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))

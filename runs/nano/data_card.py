"""`models/nano/DATA.md`: every text that the model was made from, with its licence and its share, counted from the files."""

import collections
import json
import tomllib

LANGUAGES = {"en": "English", "zh": "Chinese", "ko": "Korean"}
OWN = {
    "facts": "what dots can do, from `runs/nano/facts`: each fact asked for in many ways",
    "sums": "sums and differences, made by `runs/nano/sums.py`",
    "glossary": "words of `runs/nano/glossary.txt`, asked for from one language into another",
    "refusals": "questions of `runs/nano/elsewhere.txt`, which are out of scope",
    "talk": "small talk of `runs/nano/smalltalk.txt`",
    "mixed": "conversations of two to four turns of all of these",
}
COMPARE = {"taught": "questions and answers of this project, as text", "docs": "this project's own pages"}


def sources(free):
    """Rows of sources.tsv."""
    for line in (free / "sources.tsv").read_text().splitlines():
        package, version, licence, language, documents, characters = line.split("\t")
        if int(documents):
            yield package, version, licence, language, int(documents), int(characters)


def seen(recipe, tokens):
    """Tokens that pretraining takes of each source: {source: tokens}."""
    taken = collections.Counter()
    for phase in recipe["phases"]:
        whole = sum(phase["mixture"].values())
        for name, share in phase["mixture"].items():
            taken[name] += phase["tokens"] * share / whole
    return {name: taken[name] for name in tokens if taken[name]}


def text(work, free):
    counts = json.loads((work / "corpus/counts.json").read_text())
    shards = {file.stem: json.loads(file.read_text()) for file in sorted((work / "data").glob("*.json"))}
    tokens = {name: shard["tokens"] for name, shard in shards.items()}
    recipe = tomllib.loads((work / "pretrain/recipe.toml").read_text())
    chat = tomllib.loads((work / "chat/recipe.toml").read_text())
    epochs = chat["phases"][0].get("epochs", 1)
    rows = list(sources(free))
    everything = sum(row[-1] for row in rows)
    by_language = collections.Counter()
    by_licence = collections.Counter()
    for _, _, licence, language, _, characters in rows:
        by_language[language] += characters
        by_licence[licence] += characters

    out = ["# What nano was made from", "",
           "Written by `runs/nano/card.py` from the files that the model was trained on. There is no scraped text, and none that a model wrote: freely licensed",
           "documentation and message catalogues that Debian 12 ships, and text of this project, most of it put together from hand-written parts by",
           "`runs/nano/corpus.py`.", "",
           "## Pretraining", "",
           "| source | what | documents | tokens | tokens trained on | times through |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    taken = seen(recipe, tokens)
    for name in taken:
        what = COMPARE.get(name) or f"freely licensed text, {LANGUAGES[name]}"
        out.append(f"| {name} | {what} | {shards[name]['documents']:,} | {tokens[name]:,} | {taken[name] / 1e6:.2f} M | {taken[name] / tokens[name]:.1f} |")
    unique = sum(tokens[name] for name in taken)
    out.append(f"| together | | {sum(shards[name]['documents'] for name in taken):,} | {unique:,} | {sum(taken.values()) / 1e6:.2f} M | |")
    out += ["", f"Another {tokens.get('valid', 0):,} tokens of the free text, one document in a hundred, are for validation and were not trained on.", "",
            "## Fine-tuning", "", f"{epochs:g} times through chats of this project:", "", "| kind | what | chats | characters |", "| --- | --- | ---: | ---: |"]
    for kind, count in counts["chats"].items():
        out.append(f"| {kind} | {OWN[kind]} | {count['chats']:,} | {count['characters']:,} |")
    for file in [*sorted((work / "corpus/more").glob("*.jsonl")), *sorted((work / "corpus/again").glob("*.jsonl"))]:
        chats = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
        out.append(f"| {file.parent.name} {file.stem} | the same in further and in broken sentences, made by `runs/nano/more.py` | {len(chats):,} | {sum(len(turn['content']) for chat in chats for turn in chat):,} |")
    out += ["", "The questions of the evaluation are made of phrases that none of this holds: no eight tokens in a row (words, or characters of Chinese) of a held-out",
            "question occur in any chat or document, and none is a question of the training set (`runs/nano/ngrams.py`).", "",
            "## Free text by package", "",
            "Characters are those of the text that was kept; the share is that of all free text. Packages are Debian's, of the versions named; what each licence asks for",
            "stands in `/usr/share/doc/PACKAGE/copyright`.", "",
            "| package | version | licence | language | documents | characters | share |", "| --- | --- | --- | --- | ---: | ---: | ---: |"]
    for package, version, licence, language, documents, characters in sorted(rows, key=lambda row: -row[-1]):
        out.append(f"| {package} | {version} | {licence} | {LANGUAGES[language]} | {documents:,} | {characters:,} | {100 * characters / everything:.1f} % |")
    out += ["", "| language | characters | share |", "| --- | ---: | ---: |"]
    out += [f"| {LANGUAGES[language]} | {characters:,} | {100 * characters / everything:.1f} % |" for language, characters in by_language.most_common()]
    out += ["", "| licence | characters | share |", "| --- | ---: | ---: |"]
    out += [f"| {licence} | {characters:,} | {100 * characters / everything:.1f} % |" for licence, characters in by_licence.most_common()]
    out += ["", "Text of this project is under its MIT licence. Its pages (`docs`) are those of the commit that the corpus was made from: at another commit they, and with them",
            "the tokenizer and every shard, may differ from these.", "", "## Token shards", "", "What the run was held to, as `dots tokenize` wrote it:", "",
            "| shard | tokens | SHA-256 of the tokens |", "| --- | ---: | --- |"]
    out += [f"| {name} | {shard['tokens']:,} | `{shard['bin_sha256']}` |" for name, shard in shards.items()]
    return "\n".join(out) + "\n"

#!/usr/bin/env python3
"""The corpus of the embedded model: what it is taught, as chats and as text, and what it is asked afterwards.

    python3 runs/nano/corpus.py FREE OUT [--small]

FREE holds {en,ko,zh}.jsonl of text.py. Written are

    OUT/chats/KIND.jsonl       conversations for fine-tuning: {"messages": [...]}
    OUT/text/NAME.jsonl        documents for pretraining: taught.jsonl, docs.jsonl, {en,zh,ko}.jsonl, valid.jsonl
    OUT/heldout.jsonl          questions of the evaluation: kind, language, question, and what their answers are held to
    OUT/counts.json            how many of what, for DATA.md

The same inputs give the same bytes: every choice hangs on SEED. No question of heldout.jsonl has eight tokens in a row (words, or characters of
Chinese) with any chat, question, answer or document here, and none is a question of the training set; what has is left out of the evaluation.
--small makes a tenth of it, for a rehearsal.
"""

import json
import pathlib
import random
import re
import sys

import facts
import glossary
import ngrams
import sums
import talk

SEED = 20261125
LANGUAGES = ("en", "zh", "ko")
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
# Questions of each kind, in chats and (drawn anew) in text. facts: of each fact in each language. talk: times through all that people say.
CHATS = {"facts": 30, "sums": 33_000, "glossary": 27_000, "refusals": 15_000, "talk": 8, "mixed": 9_000}
TEXT = {"facts": 60, "sums": 60_000, "glossary": 36_000, "refusals": 18_000, "talk": 6}
HELD = {"facts": 10_000, "sums-1-2": 120, "sums-3": 120, "glossary": 150, "refusals": 150, "talk": 60}
DIGITS = [1, 2, 2, 3, 3, 3]
SYSTEM = {
    "en": ["You are a helpful assistant.", "Answer briefly.", "You are dots, an assistant for the dots program.", "Be polite."],
    "zh": ["你是一个有用的助手。", "请简短回答。", "你是 dots，dots 程序的助手。", "请礼貌回答。"],
    "ko": ["당신은 유용한 도우미입니다.", "짧게 답해 주세요.", "당신은 dots 프로그램의 도우미 dots입니다.", "공손하게 답하세요."],
}
VALIDATION_SHARE = 100  # one free document in so many


class Teacher:
    """Draws question and answer of a kind in a language; never one of the evaluation."""

    def __init__(self, rng):
        self.rng = rng
        self.facts, self.words, self.groups, self.elsewhere = facts.read(), glossary.read(), talk.small_talk(), talk.elsewhere()

    def fact(self, fact, language):
        return facts.question(fact, language, self.rng), fact.answer(language)

    def sum(self, language):
        asked, answer, _ = sums.question(self.rng, language, self.rng.choice(DIGITS))
        return asked, answer

    def word(self, language):
        word = self.rng.choice(self.words)
        return glossary.question(self.rng, language, word, *self.rng.choice(glossary.directions(language)))

    def refusal(self, language):
        if self.rng.random() < 0.06:
            return glossary.unknown(self.rng, language), talk.NO_WORD[language]
        while True:
            asked, held = self.rng.choice(self.elsewhere[language])
            if not held:
                return facts.rough(asked, language, self.rng), self.rng.choice(talk.REFUSALS[language])

    def small_talk(self, group, said, language):
        return facts.rough(said, language, self.rng), self.rng.choice(group[language][1])

    def any(self, language):
        """One of any kind, programs first."""
        kind = self.rng.choices(("fact", "sum", "word", "refusal", "talk"), (40, 15, 15, 15, 15))[0]
        if kind == "fact":
            return self.fact(self.rng.choice(self.facts), language)
        if kind == "talk":
            group = self.rng.choice(self.groups)
            return self.small_talk(group, self.rng.choice(group[language][0][:-1]), language)
        return {"sum": self.sum, "word": self.word, "refusal": self.refusal}[kind](language)

    def kind(self, name, amounts):
        """All pairs of a kind, each with its language."""
        rng, amount = self.rng, amounts[name]
        if name == "facts":
            return [(language, *self.fact(fact, language)) for fact in self.facts for language in LANGUAGES for _ in range(amount)]
        if name == "talk":
            return [(language, *self.small_talk(group, said, language)) for group in self.groups for language in LANGUAGES
                    for said in group[language][0][:-1] for _ in range(amount)]
        draw = {"sums": self.sum, "glossary": self.word, "refusals": self.refusal}[name]
        return [(language, *draw(language)) for language in (rng.choice(LANGUAGES) for _ in range(amount))]

    def mixed(self):
        """A conversation of two to four turns, now and then with a system message, a second question on the same word, or a change of language."""
        rng, language, turns = self.rng, self.rng.choice(LANGUAGES), []
        if rng.random() < 0.3:
            turns.append(("system", rng.choice(SYSTEM[language])))
        for _ in range(rng.randint(2, 4)):
            if rng.random() < 0.1:
                language = rng.choice(LANGUAGES)
            if rng.random() < 0.12:
                word, (first, second) = rng.choice(self.words), rng.sample([other for other in LANGUAGES if other != language], 2)
                asked, answer = glossary.question(rng, language, word, language, first)
                turns += [("user", asked), ("assistant", answer),
                          ("user", rng.choice(glossary.FOLLOW[language]).format(t=glossary.NAMES[language][second])),
                          ("assistant", glossary.answer(language, word[language], second, word[second]))]
                continue
            asked, answer = self.any(language)
            turns += [("user", asked), ("assistant", answer)]
        return turns


def held_candidates(teacher, rng):
    """Questions that may be asked in the evaluation, best first: lists of alternatives of which one is taken."""
    rows = []
    for language in LANGUAGES:
        for fact in teacher.facts:
            rows.append([{"kind": "facts", "language": language, "fact": fact.name, "question": asked, "must": fact.must(), "answer": fact.answer(language)}
                         for asked in facts.held_out(fact, language, rng)])
        for kind, digits in (("sums-1-2", (1, 2, 2, 2)), ("sums-3", (3,))):
            for _ in range(HELD[kind] * 2):
                asked, answer, result = sums.question(rng, language, rng.choice(digits), held=True)
                rows.append([{"kind": kind, "language": language, "question": asked, "result": result, "answer": answer}])
        for _ in range(HELD["glossary"] * 2):
            word, (source, target) = rng.choice(teacher.words), rng.choice(glossary.directions(language))
            asked, answer = glossary.question(rng, language, word, source, target, held=True)
            rows.append([{"kind": "glossary", "language": language, "question": asked, "must": [word[target]], "answer": answer}])
        away = [asked for asked, held in teacher.elsewhere[language] if held]
        away = rng.sample(away, len(away)) + [glossary.unknown(rng, language, held=True) for _ in range(15)]
        rng.shuffle(away)
        rows += [[{"kind": "refusals", "language": language, "question": asked}] for asked in away]
        rows += [[{"kind": "talk", "language": language, "question": group[language][0][-1]}] for group in teacher.groups]
    return rows


def choose(rows, seen):
    """Of each list the first question that training does not know, up to what HELD says."""
    chosen, counts, asked = [], {}, set()
    for alternatives in rows:
        row = next((row for row in alternatives if seen.unseen(row["question"]) and row["question"] not in asked), None)
        if row is None:
            continue
        key = (row["kind"], row["language"])
        if counts.get(key, 0) < HELD[row["kind"]]:
            counts[key] = counts.get(key, 0) + 1
            asked.add(row["question"])
            chosen.append(row)
    return chosen, counts


def documents(pairs, rng):
    """Pairs as running text: some ten of a language under one another, in one of three shapes."""
    rng.shuffle(pairs)
    by_language = {language: [] for language in LANGUAGES}
    for language, *pair in pairs:
        by_language[language].append(pair)
    texts = []
    for rows in by_language.values():
        while rows:
            taken, rows = rows[:10], rows[10:]
            shape = rng.choice(("{}\n{}", "{} {}", "Q: {}\nA: {}"))
            texts.append("\n\n".join(shape.format(*pair) if len(pair) == 2 else pair[0] for pair in taken))
    rng.shuffle(texts)
    return texts


def project_documents():
    """This project's own pages, in the pieces that their headings make."""
    files = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), *sorted((REPOSITORY / "bench").glob("*.md"))]
    for file in files:
        for piece in re.split(r"\n(?=## )", file.read_text()):
            if len(piece) > 120:
                yield piece


def free_documents(free):
    for language in LANGUAGES:
        with open(free / f"{language}.jsonl") as file:
            for line in file:
                yield language, json.loads(line)["text"]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with open(aside, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.rename(path)


def main(free, out, small):
    scale = 10 if small else 1
    chats_wanted = {kind: max(1, n // scale) for kind, n in CHATS.items()}
    text_wanted = {kind: max(1, n // scale) for kind, n in TEXT.items()}
    teacher = Teacher(random.Random(SEED))
    rows = held_candidates(teacher, random.Random(SEED + 1))
    seen = ngrams.Seen([row["question"] for alternatives in rows for row in alternatives])
    counts = {"chats": {}, "text": {}, "held": {}}

    # Fine-tuning.
    rng = teacher.rng
    for kind in CHATS:
        if kind == "mixed":
            talks = [teacher.mixed() for _ in range(chats_wanted[kind])]
        else:
            pairs = teacher.kind(kind, chats_wanted)
            rng.shuffle(pairs)
            talks = [([("system", rng.choice(SYSTEM[language]))] if rng.random() < 0.06 else []) + [("user", asked), ("assistant", answer)]
                     for language, asked, answer in pairs]
        for role, text in (turn for turns in talks for turn in turns):
            seen.show_question(text) if role == "user" else seen.show(text)
        write(out / "chats" / f"{kind}.jsonl", ({"messages": [{"role": role, "content": text} for role, text in turns]} for turns in talks))
        counts["chats"][kind] = {"chats": len(talks), "characters": sum(len(text) for turns in talks for _, text in turns)}

    # Text of the same content, drawn anew.
    pairs = []
    for kind in TEXT:
        pairs += teacher.kind(kind, text_wanted)
    pairs += [(language, facts.statement(fact, language, rng)) for fact in teacher.facts for language in LANGUAGES for _ in range(max(1, 8 // scale))]
    for _, asked, *_ in pairs:
        seen.show_question(asked)
    texts = documents(pairs, rng)
    pages = list(project_documents())
    for text in texts + pages:
        seen.show(text)
    write(out / "text" / "taught.jsonl", ({"text": text} for text in texts))
    write(out / "text" / "docs.jsonl", ({"text": text} for text in pages))
    counts["text"]["taught"] = {"documents": len(texts), "characters": sum(map(len, texts))}
    counts["text"]["docs"] = {"documents": len(pages), "characters": sum(map(len, pages))}

    # Free text, of which a hundredth is for validation.
    kept = {language: [] for language in LANGUAGES}
    valid, number = [], 0
    for language, text in free_documents(free):
        seen.show(text)
        number += 1
        if small and number % 10:
            continue
        (valid if number % VALIDATION_SHARE == 50 else kept[language]).append(text[:6000] if number % VALIDATION_SHARE == 50 else text)
    for language, texts in kept.items():
        write(out / "text" / f"{language}.jsonl", ({"text": text} for text in texts))
        counts["text"][language] = {"documents": len(texts), "characters": sum(map(len, texts))}
    write(out / "text" / "valid.jsonl", ({"text": text} for text in valid))
    counts["text"]["valid"] = {"documents": len(valid), "characters": sum(map(len, valid))}

    chosen, held = choose(rows, seen)
    write(out / "heldout.jsonl", chosen)
    counts["held"] = {f"{kind}.{language}": n for (kind, language), n in sorted(held.items())}
    (out / "counts.json").write_text(json.dumps(counts, indent=1) + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--small"]
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    main(pathlib.Path(arguments[0]), pathlib.Path(arguments[1]), "--small" in sys.argv)

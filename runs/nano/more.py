#!/usr/bin/env python3
"""Further chats for fine-tuning alone: the same facts, sums and words, asked in more ways than pretraining saw.

    python3 runs/nano/more.py CORPUS

Reads CORPUS/heldout.jsonl of corpus.py and writes CORPUS/more/{facts,sums,glossary}.jsonl, and again/ for what is learnt last, beside the corpus and not in it, so
that neither the tokenizer nor pretraining depend on it. A small model that has learnt a question by heart answers that one alone. So facts are asked here in some forty further ways each
(`phrases/`, written without a look at the evaluation's), half of the time, and a quarter in the end, in broken sentences (words left out, two phrases joined, neighbours changed), which leaves
it the words that matter; sums and words in other sentences, in the end in those of `phrases/templates.json`. No question here has eight tokens in a row with one of the evaluation, nor is one; none is made of the
evaluation's own sentences, nor of a phrase that the evaluation asks by, where two people thought of the same.
"""

import dataclasses
import json
import pathlib
import random
import re
import sys

import corpus
import facts
import glossary
import korean
import ngrams
import sums


@dataclasses.dataclass
class Set:
    """One of the two sets of chats; `facts`: of each fact in each language, `whole`: of the phrases, those that stay unbroken."""
    seed: int
    facts: int
    sums: int
    glossary: int
    whole: float
    templates: bool


SETS = {"more": Set(corpus.SEED + 2, 110, 24_000, 24_000, 0.5, False), "again": Set(corpus.SEED + 3, 80, 20_000, 20_000, 0.75, True)}
VERBS = {
    "en": ["{} how?", "how {}", "what do I do to {}", "dots: {}", "Explain how to {}.", "Trying to {}, what now?", "My goal is to {}.", "I have to {}.", "We need to {}.", "Best way to {}?",
           "Someone asked me to {}.", "Where do I {}?", "What lets me {}?", "Should I do something special to {}?", "{} please", "I'd love to {}.", "When I want to {}, what helps?"],
    "zh": ["{}，怎么办？", "教我{}", "怎么才可以{}", "我该怎么{}", "有人让我{}", "我的目标是{}", "在 dots 里{}", "说一下如何去{}", "需要{}", "我们要{}", "哪个命令可以{}？", "最好怎样去{}？", "有什么办法可以{}", "{}，谢谢"],
    "ko": [("려면", "{} 뭐가 필요해요?"), ("고", "{} 싶은데요"), ("는", "{} 게 목표예요."), ("려면", "{} 어디를 봐야 하나요?"), ("는", "{} 가장 좋은 방법은요?"), ("려고", "{} 하는데 도와줘요."), ("는", "{} 방법 설명해 줘"),
           ("려면", "{} 좀 도와주세요."), ("ㄹ", "{} 때는 어떻게 해요?"), ("는", "{} 데 쓰는 명령은요?"), ("려면", "우리가 {} 어떻게 하죠?"), ("기", "{} 위해 무엇을 하나요?")],
}
SUMS = {
    "+": {
        "en": ["{a} added to {b}", "Total of {a} and {b}?", "sum {a} {b}", "If I have {a} and someone gives me {b}, how many do I have?", "{a} increased by {b}", "Give me {a} plus {b}.", "Find {a} + {b}.",
               "Please solve {a} + {b}.", "Put {a} and {b} in one sum.", "{b} more than {a}?", "I need the result of {a} + {b}.", "{a} and then {b} on top, how much?", "Quick: {a} + {b}", "solve {a}+{b}", "Count {b} up from {a}."],
        "zh": ["{a}增加{b}是几？", "{a}和{b}一共多少？", "{a}跟{b}合起来呢？", "求{a}+{b}", "{a}加{b}", "{a}加{b}的结果", "先有{a}，又来{b}，总共是？", "比{a}多{b}的数是几？", "{a}{b}求和", "我需要{a}+{b}的结果",
               "{a}，加上{b}，答案？", "书架上有{a}本书，添了{b}本，现在有几本？", "做一道题：{a}+{b}", "{a}与{b}总和", "{a}添上{b}等于"],
        "ko": ["{a}와 {b}를 합치면?", "{a}에 {b} 추가하면 몇이죠?", "{a}보다 {b} 큰 수는?", "{a} + {b}의 답", "{a} + {b} 풀어 줘", "{a}하고 {b} 합은요?", "{a}, 거기에 {b}를 더한 수", "{a} 더하기 {b} 해 봐", "책 {a}권이 있고 {b}권을 더 샀어요. 몇 권이에요?",
               "{a} + {b} 결과 알려 줘", "{a}와 {b} 모두 합해서 몇?", "{a} 플러스 {b}", "{a}에서 {b} 늘어나면?", "문제: {a} + {b}", "{a}랑 {b} 더해 봐요"],
    },
    "-": {
        "en": ["{b} subtracted from {a}", "{a} less {b}", "Remove {b} from {a}.", "If I have {a} and lose {b}, how many remain?", "{a} reduced by {b}", "Give me {a} minus {b}.", "Find {a} - {b}.",
               "Please solve {a} - {b}.", "Deduct {b} from {a}.", "{b} fewer than {a}?", "I need the result of {a} - {b}.", "How far is it from {b} up to {a}?", "Quick: {a} - {b}", "solve {a}-{b}", "Count {b} down from {a}."],
        "zh": ["{a}减少{b}是几？", "{a}比{b}多多少？", "从{a}中扣除{b}呢？", "求{a}-{b}", "{a}减{b}", "{a}减{b}的结果", "本来有{a}，少了{b}，还有？", "比{a}少{b}的数是几？", "{a}{b}求差", "我需要{a}-{b}的结果",
               "{a}，减去{b}，答案？", "书架上有{a}本书，借走{b}本，现在有几本？", "做一道题：{a}-{b}", "{a}扣掉{b}", "{a}拿走{b}等于"],
        "ko": ["{a}에서 {b}를 덜어 내면?", "{a}에서 {b} 줄이면 몇이죠?", "{a}보다 {b} 작은 수는?", "{a} - {b}의 답", "{a} - {b} 풀어 줘", "{a}와 {b}의 차이는요?", "{a}, 거기서 {b}를 뺀 수", "{a} 빼기 {b} 해 봐", "책 {a}권이 있는데 {b}권을 잃어버렸어요. 몇 권 남아요?",
               "{a} - {b} 결과 알려 줘", "{a}에서 {b}를 없애면 몇?", "{a} 마이너스 {b}", "{a}에서 {b} 줄어들면?", "문제: {a} - {b}", "{a}에서 {b}를 빼 봐요"],
    },
}
WORDS = {
    "en": ["{t} for \"{w}\"?", "{w}: {t}?", "I want to say {w} in {t}.", "\"{w}\", but in {t}", "Please translate \"{w}\" into {t}.", "Tell me {w} in {t}.", "Tell me the {t} word for {w}.", "How would a {t} speaker say \"{w}\"?",
           "What do people call \"{w}\" in {t}?", "the {t} translation of {w}", "I need \"{w}\" in {t}.", "{t} translation: {w}", "Do you know {w} in {t}?", "Can you say \"{w}\" in {t}?", "My friend speaks {t}. How do I tell her \"{w}\"?"],
    "zh": ["{w}，{t}？", "“{w}”翻成{t}", "告诉我{w}用{t}怎么说", "{t}怎么表达“{w}”？", "“{w}”这个词的{t}", "我要{w}的{t}翻译", "你知道{w}的{t}吗？", "{w}这个词，{t}是什么？", "给我“{w}”的{t}", "帮我把{w}翻译为{t}", "{t}的“{w}”是哪个词？",
           "“{w}”对应的{t}是？", "学{t}：{w}", "{w}，请用{t}说", "用{t}写“{w}”"],
    "ko": ["{w}, {t}로는?", "\"{w}\"의 {t}는?", "{t} 단어로 \"{w}\"는?", "{w} {t} 번역 부탁해요", "{t}로 \"{w}\" 말해 줘", "{w}의 {t} 번역은 무엇이죠?", "\"{w}\" 이 단어 {t}로요", "{w}가 {t}로 뭔지 아세요?", "{t}로 {w} 써 주세요", "{t} 공부: {w}",
           "친구에게 {t}로 \"{w}\"라고 말하려면?", "\"{w}\" {t}로 바꿔 봐요", "{t}에서 {w}는 어떤 말이에요?", "{w}에 해당하는 {t}", "{t} 번역: {w}"],
}


def parts(phrase, language):
    """The words of a phrase, each with what separates it from the one before; of Chinese, pairs of characters and whole Latin words."""
    if language == "zh":
        return re.findall(r"[A-Za-z0-9_./-]+|[一-鿿]{1,2}|[^一-鿿A-Za-z0-9]+", phrase)
    return phrase.split(" ")


def plain(text):
    return " ".join(ngrams.tokens(text))


def held_phrases():
    """What the evaluation asks by, in all languages."""
    return {plain(fact.phrases[language][-1]) for fact in facts.read() for language in facts.LANGUAGES}


def broken(phrase, phrases, language, rng):
    """`phrase` with words left out or moved, or joined with another. The last word of a Korean stem stays, as its ending hangs on it."""
    glue = "" if language == "zh" else " "
    words = parts(phrase, language)
    last = [words.pop()] if language == "ko" else []
    if len(phrases) > 1 and rng.random() < 0.3:
        other = parts(rng.choice(phrases), language)[: -1 if language == "ko" else None]
        words = words[: rng.randint(0, len(words))] + other[rng.randint(0, len(other)) :] if rng.random() < 0.5 else other + words
    gone = rng.choice((0, 0.15, 0.3, 0.45))
    kept = [word for word in words if rng.random() >= gone] or words[:1]
    if len(kept) > 1 and rng.random() < 0.25:
        i = rng.randrange(len(kept) - 1)
        kept[i], kept[i + 1] = kept[i + 1], kept[i]
    return glue.join(kept + last).strip() or phrase


def further_phrases():
    """What `phrases/*.txt` adds to the facts: {name: {language: phrases}}. None of them is held out."""
    keys, further, held, dropped = {"e": "en", "z": "zh", "k": "ko"}, {}, held_phrases(), 0
    for file in sorted((pathlib.Path(__file__).parent / "phrases").glob("*.txt")):
        name = ""
        for number, line in enumerate(file.read_text().splitlines(), 1):
            key, _, value = line.partition(" ")
            if key == "@":
                name = value.strip()
            elif key.rstrip(":") in keys and name:
                phrases = [phrase.strip() for phrase in value.split("; ")]
                kept = [phrase for phrase in phrases if plain(phrase) not in held]
                dropped += len(phrases) - len(kept)
                further.setdefault(name, {}).setdefault(keys[key[0]], []).extend(kept)
            elif line.strip():
                raise SystemExit(f"{file}:{number}: expected `@ NAME`, or phrases after `e: `, `z: ` or `k: `, found {line[:40]!r}")
    unknown = sorted(set(further) - {fact.name for fact in facts.read()})
    if unknown:
        raise SystemExit(f"phrases: expected names of facts, found {', '.join(unknown)}")
    print(f"phrases: {sum(len(phrases) for fact in further.values() for phrases in fact.values())}; {dropped} left out, which the evaluation asks by", file=sys.stderr)
    return further


def ask_fact(fact, language, further, held, whole, rng):
    phrases = fact.phrases[language][:-1] + further.get(fact.name, {}).get(language, [])
    phrase = rng.choice(phrases)
    varied = facts.vary(phrase, language, rng)
    phrase = phrase if plain(varied) in held else varied
    if rng.random() >= whole:
        phrase = broken(phrase, phrases, language, rng)
    if fact.form != "verb":
        return facts.rough(phrase if fact.form == "question" else facts.ask(rng.choice(facts.NOUNS[language]), phrase, language), language, rng)
    template = rng.choice(VERBS[language] if rng.random() < 0.6 else facts.VERBS[language])
    return facts.rough(facts.ask(template, phrase, language), language, rng)


def templates():
    """Sentences for sums and words, {kind: {language: sentences}}, of `phrases/templates.json` and here; none is the evaluation's."""
    further = json.loads((pathlib.Path(__file__).parent / "phrases/templates.json").read_text())
    ours = {**SUMS, "word": WORDS}
    held = {**sums.HELD_PHRASES, "word": glossary.HELD_PHRASES}
    forbidden = lambda kind, language: {plain(sentence) for sentence in held[kind][language]} - {plain(sentence) for sentence in sums.PHRASES.get(kind, {}).get(language, [])}
    return {kind: {language: ours[kind][language] + [sentence for sentence in further[kind][language] if plain(sentence) not in forbidden(kind, language)] for language in facts.LANGUAGES}
            for kind in ours}


def ask_sum(sentences, language, rng):
    while True:
        a, op, b = sums.draw(rng, rng.choice(corpus.DIGITS))
        if not sums.is_held(a, op, b):
            break
    asked = rng.choice(sentences[op][language]).format(a=a, b=b)
    if language == "ko":
        asked = korean.repair(korean.repair(asked, str(a)), str(b))
    return facts.rough(asked, language, rng), sums.answer(a, op, b, language)


def ask_word(sentences, words, language, rng):
    word, (source, target) = rng.choice(words), rng.choice(glossary.directions(language))
    asked = glossary.ask(rng.choice(sentences[language]), language, word[source], target)
    return facts.rough(asked, language, rng), glossary.answer(language, word[source], target, word[target])


def main(folder, scale):
    held = [json.loads(line)["question"] for line in (folder / "heldout.jsonl").read_text().splitlines()]
    wanted, whole = set().union(*map(ngrams.grams, held)), {plain(text) for text in held}
    unseen = lambda text: wanted.isdisjoint(ngrams.grams(text)) and plain(text) not in whole
    words, further, phrases = glossary.read(), further_phrases(), held_phrases()
    for name, kinds in SETS.items():
        rng = random.Random(kinds.seed)
        sentences = templates() if kinds.templates else {**SUMS, "word": WORDS}
        times = lambda n: range(max(1, n // scale))
        pairs = {
            "facts": [(ask_fact(fact, language, further, phrases, kinds.whole, rng), fact.answer(language)) for fact in facts.read() for language in facts.LANGUAGES for _ in times(kinds.facts)],
            "sums": [ask_sum(sentences, rng.choice(facts.LANGUAGES), rng) for _ in times(kinds.sums)],
            "glossary": [ask_word(sentences["word"], words, rng.choice(facts.LANGUAGES), rng) for _ in times(kinds.glossary)],
        }
        for kind, rows in pairs.items():
            kept = [(asked, answer) for asked, answer in rows if asked and unseen(asked)]
            rng.shuffle(kept)
            corpus.write(folder / name / f"{kind}.jsonl", ({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]} for asked, answer in kept))
            print(f"{name}/{kind}: {len(kept)} chats, {len(rows) - len(kept)} left out for the evaluation's sake", file=sys.stderr)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--small"]
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    main(pathlib.Path(arguments[0]), 10 if "--small" in sys.argv else 1)

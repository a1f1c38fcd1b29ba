"""Small talk, and what is refused."""

import pathlib

import korean

HERE = pathlib.Path(__file__).parent
LANGUAGES = ("en", "zh", "ko")
REFUSALS = {
    "en": ["I don't know that. I only know dots, small sums and a short glossary.", "Sorry, I don't know: I'm a small model that only knows dots."],
    "zh": ["这个我不知道。我只了解 dots、简单的加减法和一个小词汇表。", "抱歉，我不知道：我是只懂 dots 的小模型。"],
    "ko": ["그건 모릅니다. 저는 dots와 작은 덧셈 뺄셈, 짧은 단어장만 압니다.", "죄송하지만 모릅니다. 저는 dots만 아는 작은 모델입니다."],
}
# What a refusal can be told by.
MARKS = {"en": "don't know", "zh": "不知道", "ko": "모릅니다"}
NO_WORD = {"en": "I don't know that word: it is not in my glossary.", "zh": "这个词我不知道：它不在我的词汇表里。", "ko": "그 단어는 모릅니다. 제 단어장에 없습니다."}
HELD_SLOTS, HELD_OTHERS = 3, 14
KO_VERBS = {"려면": ["{} 어떻게 하나요?", "{} 뭐가 필요해요?"], "는법": ["{} 방법을 알려 주세요", "{} 법을 가르쳐 주세요"], "고싶": ["{} 싶어요", "{} 싶은데 어떻게 하죠?"], "는것": ["{} 것은 어려운가요?", "{} 데 얼마나 걸려요?"]}


def small_talk():
    """The groups, each {language: (what people say, what is answered)}; the last of what people say is never trained on."""
    groups = []
    for line in (HERE / "smalltalk.txt").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if key == "@":
            groups.append({"name": rest})
            continue
        parts = [part.strip() for part in rest.split("|")]
        language = key.lower()
        said, answers = groups[-1].get(language, ([], []))
        groups[-1][language] = (said, parts) if key.isupper() else (parts, answers)
    return groups


def elsewhere():
    """Questions out of scope: {language: [(question, held out)]}."""
    questions = {language: [] for language in LANGUAGES}
    slots, name = [], ""
    for line in (HERE / "elsewhere.txt").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if key == "@":
            name, slots = rest, []
        elif key == "x":
            slots = [dict(zip(LANGUAGES, (part.strip() for part in slot.split("|")))) for slot in rest.split(";")]
        else:
            templates = [part.strip() for part in rest.split("|")]
            if not slots:
                questions[key] += [(text, i >= len(templates) - HELD_OTHERS) for i, text in enumerate(templates)]
                continue
            for i, slot in enumerate(slots):
                held = i % (len(slots) // HELD_SLOTS) == 1
                for template in templates:
                    for text in fill(template, slot[key], key, name):
                        questions[key].append((text, held))
    return questions


def fill(template, slot, language, name):
    if language == "ko" and name == "skill":
        form = template.removeprefix("{x}")
        ending = {"려면": "려면", "는법": "는", "고싶": "고", "는것": "는"}[form]
        return [sentence.format(korean.ending(slot, ending)) for sentence in KO_VERBS[form]]
    text = template.replace("{x}", slot)
    return [korean.repair(text, slot) if language == "ko" else text[0].upper() + text[1:]]

"""Endings of Korean verbs, and particles, by the last syllable."""

HANGUL, FINALS = 0xAC00, 28
L, B, N = 8, 17, 4  # ㄹ, ㅂ and ㄴ as final consonants


# Of digits as they are read: 영 (십, 백), 일, 이, 삼, 사, 오, 육, 칠, 팔, 구.
DIGITS = {"0": B, "1": L, "2": 0, "3": B, "4": 0, "5": 0, "6": B, "7": L, "8": L, "9": 0}


def final(text):
    """The number of the last syllable's final consonant, 0 for none; None where the last character is neither Hangul nor a digit."""
    if text and text[-1] in DIGITS:
        return DIGITS[text[-1]]
    code = ord(text[-1]) - HANGUL if text else -1
    return code % FINALS if 0 <= code < 11172 else None


def with_final(text, number):
    """`text` with another final consonant in its last syllable."""
    code = ord(text[-1]) - HANGUL
    return text[:-1] + chr(HANGUL + code - code % FINALS + number)


def ending(stem, form):
    """A regular verb's stem with `려면`, `면`, `는`, `고`, `ㄹ`, `나`, `기` or `지`: 열 → 열려면, 여는, 열고, 열.

    Irregular stems (ㄷ, ㅂ and ㅅ that change) are not used in the facts."""
    last = final(stem)
    assert last is not None, stem
    if form in ("려면", "면", "려고"):
        return stem + ("" if last in (0, L) else "으") + form
    if form in ("는", "나"):
        return (with_final(stem, 0) if last == L else stem) + form
    if form == "ㄹ":
        return stem if last == L else with_final(stem, L) if last == 0 else stem + "을"
    return stem + form


def particle(noun, after_consonant, after_vowel):
    """`noun` with 은/는, 이/가, 을/를, 과/와 or 이란/란; a Latin or digit ending is read as a vowel."""
    return noun + (after_consonant if final(noun) else after_vowel)


def repair(sentence, slot):
    """A template's sentence, whose particles after `slot` are those after a vowel, with those that `slot` takes."""
    if not final(slot):
        return sentence
    for vowel, consonant in (("는", "은"), ("가", "이"), ("를", "을"), ("와", "과"), ("란", "이란")):
        for end in (" ", "?"):
            sentence = sentence.replace(slot + vowel + end, slot + consonant + end)
    if final(slot) != L:
        sentence = sentence.replace(slot + "로 ", slot + "으로 ")
    return sentence

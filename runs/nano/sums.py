"""Sums and differences of numbers of up to three digits, worked out digit by digit from the right."""

import hashlib

import korean

PHRASES = {
    "+": {
        "en": ["What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "Add {a} and {b}.", "How much is {a} plus {b}?", "Calculate {a} + {b}.", "{a} plus {b}",
               "What do you get when you add {b} to {a}?", "What's the sum of {a} and {b}?", "What is {a} plus {b}?", "Can you add {a} and {b}?", "what's {a}+{b}",
               "I have {a} apples and get {b} more. How many are there?", "Compute {a} plus {b}.", "Tell me what {a} + {b} is."],
        "zh": ["{a} + {b} 等于多少？", "{a}加{b}是多少？", "{a}+{b}", "{a} + {b} = ?", "{a}+{b}=？", "计算 {a} + {b}", "{a}加上{b}等于几？", "把{a}和{b}加起来", "{a}与{b}的和是多少？",
               "请算一下{a}加{b}", "{a}加{b}等于多少？", "帮我算{a}+{b}", "我有{a}个苹果，又得到{b}个，一共多少个？", "求{a}与{b}之和"],
        "ko": ["{a} + {b}는 얼마예요?", "{a} 더하기 {b}는?", "{a}+{b}", "{a} + {b} = ?", "{a}와 {b}를 더하면 얼마인가요?", "{a} + {b} 계산해 주세요", "{a}에 {b}를 더하면?",
               "{a}와 {b}의 합은 무엇인가요?", "{a} 더하기 {b}는 얼마예요?", "{a}하고 {b} 더해 주세요", "{a} 더하기 {b}", "사과 {a}개가 있는데 {b}개를 더 받았어요. 모두 몇 개예요?", "{a}에다 {b} 더하면 몇이에요?"],
    },
    "-": {
        "en": ["What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} = ?", "Subtract {b} from {a}.", "How much is {a} minus {b}?", "Calculate {a} - {b}.", "{a} minus {b}",
               "Take {b} away from {a}.", "What's the difference between {a} and {b}?", "What is {a} minus {b}?", "Can you subtract {b} from {a}?", "what's {a}-{b}",
               "I have {a} apples and give away {b}. How many are left?", "Compute {a} minus {b}.", "Tell me what {a} - {b} is."],
        "zh": ["{a} - {b} 等于多少？", "{a}减{b}是多少？", "{a}-{b}", "{a} - {b} = ?", "{a}-{b}=？", "计算 {a} - {b}", "{a}减去{b}等于几？", "从{a}里减去{b}", "{a}与{b}的差是多少？",
               "请算一下{a}减{b}", "{a}减{b}等于多少？", "帮我算{a}-{b}", "我有{a}个苹果，给出{b}个，还剩多少个？", "求{a}与{b}之差"],
        "ko": ["{a} - {b}는 얼마예요?", "{a} 빼기 {b}는?", "{a}-{b}", "{a} - {b} = ?", "{a}에서 {b}를 빼면 얼마인가요?", "{a} - {b} 계산해 주세요", "{a}에서 {b}를 빼면?",
               "{a}와 {b}의 차는 무엇인가요?", "{a} 빼기 {b}는 얼마예요?", "{a}에서 {b} 빼 주세요", "{a} 빼기 {b}", "사과 {a}개가 있는데 {b}개를 주었어요. 몇 개 남았어요?", "{a}에서 {b} 빼면 몇이에요?"],
    },
}
HELD_PHRASES = {
    "+": {"en": ["Work out {a} plus {b}.", "{a} and {b} together make what?", "What is {a} + {b}?"], "zh": ["{a}再加{b}得多少？", "{a}和{b}相加是几？", "{a} + {b} 等于多少？"],
          "ko": ["{a} 더하기 {b} 값이 뭐예요?", "{a}에 {b}만큼 더하면 얼마죠?", "{a} + {b}는 얼마예요?"]},
    "-": {"en": ["Work out {a} minus {b}.", "{a} without {b} is what?", "What is {a} - {b}?"], "zh": ["{a}去掉{b}得多少？", "{a}和{b}相减是几？", "{a} - {b} 等于多少？"],
          "ko": ["{a} 빼기 {b} 값이 뭐예요?", "{a}에서 {b}만큼 빼면 얼마죠?", "{a} - {b}는 얼마예요?"]},
}
ANSWERS = {"en": "{work}{a} {op} {b} = {c}.", "zh": "{work}{a} {op} {b} = {c}。", "ko": "{work}{a} {op} {b} = {c}입니다."}
STOPS = {"en": ". So ", "zh": "。所以 ", "ko": ". 따라서 "}


def is_held(a, op, b):
    """Whether this pair is for the evaluation only: about one in twenty, by a hash, so that no list is needed."""
    return hashlib.blake2b(f"{a}{op}{b}".encode(), digest_size=4).digest()[0] < 13


def steps(a, op, b):
    """The working, ones first: 47 + 38 → 7+8=15, 4+3+1=8; 85 - 47 → 15-7=8, 8-1-4=3."""
    width = max(len(str(a)), len(str(b)))
    carry, lines = 0, []
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}")):
        x, y = int(x), int(y)
        if op == "+":
            total = x + y + carry
            lines.append(f"{x}+{y}{'+1' if carry else ''}={total}")
            carry = total // 10
        else:
            borrow = x - carry - y < 0
            x += 10 * borrow
            lines.append(f"{x}{'-1' if carry else ''}-{y}={x - carry - y}")
            carry = borrow
    return lines


def answer(a, op, b, language):
    work = ", ".join(steps(a, op, b)) + STOPS[language] if max(a, b) > 9 else ""
    return ANSWERS[language].format(work=work, a=a, op=op, b=b, c=a + b if op == "+" else a - b)


def draw(rng, digits):
    """Two numbers of up to so many digits, the longer of exactly so many, and an operation; a difference is never below nothing."""
    low = 0 if digits == 1 else 10 ** (digits - 1)
    a, b = rng.randrange(low, 10**digits), rng.randrange(10 ** (digits if rng.random() < 0.75 else max(1, digits - 1)))
    op = rng.choice("+-")
    if op == "-" and a < b or op == "+" and rng.random() < 0.3:
        a, b = b, a
    return (a, op, b) if op == "+" or a >= b else (b, op, a)


def question(rng, language, digits, held=False):
    """A question with its answer and result; the pair is one of the evaluation where `held`, one of the training otherwise."""
    while True:
        a, op, b = draw(rng, digits)
        if is_held(a, op, b) == held:
            break
    phrase = rng.choice((HELD_PHRASES if held else PHRASES)[op][language])
    asked = phrase.format(a=a, b=b)
    if language == "ko":
        asked = korean.repair(korean.repair(asked, str(a)), str(b))
    return asked, answer(a, op, b, language), a + b if op == "+" else a - b

"""Words and their translations, all six ways, asked in three languages."""

import pathlib
import re

import korean

FILE = pathlib.Path(__file__).parent / "glossary.txt"
LANGUAGES = ("en", "zh", "ko")
NAMES = {"en": {"en": "English", "zh": "Chinese", "ko": "Korean"}, "zh": {"en": "英语", "zh": "中文", "ko": "韩语"}, "ko": {"en": "영어", "zh": "중국어", "ko": "한국어"}}
# {w} is the word, {t} the name of the language wanted.
PHRASES = {
    "en": ["What is \"{w}\" in {t}?", "How do you say \"{w}\" in {t}?", "Translate \"{w}\" into {t}.", "What's the {t} word for \"{w}\"?", "{w} in {t}?", "{w} in {t}",
           "Translate {w} to {t}", "How do I say {w} in {t}?", "What does \"{w}\" mean in {t}?", "Give me the {t} for \"{w}\".", "Say \"{w}\" in {t}.", "what is {w} in {t}"],
    "zh": ["“{w}”用{t}怎么说？", "把“{w}”翻译成{t}。", "{w}的{t}是什么？", "{w}用{t}怎么说", "“{w}”的{t}怎么说？", "翻译成{t}：{w}", "{t}里“{w}”是什么？", "{w} {t}", "请把{w}译成{t}。",
           "怎么用{t}说“{w}”？", "{w}在{t}里是什么意思？"],
    "ko": ["\"{w}\" {t}로 뭐예요?", "\"{w}\"를 {t}로 번역해 주세요.", "{w} {t}로 어떻게 말해요?", "{w} {t}로", "{t}로 \"{w}\"는 무엇인가요?", "\"{w}\"의 {t} 단어는 뭔가요?", "{w}를 {t}로 뭐라고 하나요?",
           "{t}로 {w} 뭐라고 해요?", "{w} {t}로 번역", "\"{w}\"는 {t}로 무슨 뜻이에요?", "{w} {t}로 알려 주세요."],
}
HELD_PHRASES = {
    "en": ["Which {t} word means \"{w}\"?", "I'd like to know {w} in {t}.", "In {t}, \"{w}\" is called what?"],
    "zh": ["请问“{w}”{t}怎么讲？", "我想知道{w}的{t}说法。", "{t}中“{w}”叫什么？"],
    "ko": ["\"{w}\" {t}로는 뭐라고 부르나요?", "{t}로 {w} 알고 싶어요.", "\"{w}\"를 {t}로 옮겨 줘요."],
}
ANSWERS = {"en": "“{w}” in {t} is “{x}”.", "zh": "“{w}”的{t}是“{x}”。", "ko": "“{w}” {t}로는 “{x}”입니다."}
FOLLOW = {"en": ["And in {t}?", "What about {t}?", "In {t}?"], "zh": ["那{t}呢？", "{t}怎么说？", "用{t}呢？"], "ko": ["그럼 {t}로는요?", "{t}로는 뭐예요?", "{t}로는요?"]}
UNKNOWN = {
    "en": "astronaut; penguin; umbrella stand; philosophy; volcano; passport; lawyer; helicopter; pyramid; cinnamon; parliament; saxophone; asteroid; pharmacy; tractor; violin; dinosaur; lighthouse; waterfall; pillow; blanket; candle; hammer; ladder; mirror; scissors; soap; towel; wallet; zebra; giraffe; kangaroo; octopus; crocodile; eagle; jealousy; courage; justice; democracy; gravity",
    "zh": "宇航员; 企鹅; 哲学; 火山; 护照; 律师; 直升机; 金字塔; 肉桂; 议会; 萨克斯; 小行星; 药店; 拖拉机; 小提琴; 恐龙; 灯塔; 瀑布; 枕头; 毯子; 蜡烛; 锤子; 梯子; 镜子; 剪刀; 肥皂; 毛巾; 钱包; 斑马; 长颈鹿; 袋鼠; 章鱼; 鳄鱼; 老鹰; 嫉妒; 勇气; 正义; 民主; 重力; 蟑螂",
    "ko": "우주비행사; 펭귄; 철학; 화산; 여권; 변호사; 헬리콥터; 피라미드; 계피; 의회; 색소폰; 소행성; 약국; 트랙터; 바이올린; 공룡; 등대; 폭포; 베개; 담요; 양초; 망치; 사다리; 거울; 가위; 비누; 수건; 지갑; 얼룩말; 기린; 캥거루; 문어; 악어; 독수리; 질투; 용기; 정의; 민주주의; 중력; 바퀴벌레",
}


def read():
    """The words, each as {language: word}."""
    words = []
    for number, line in enumerate(FILE.read_text().splitlines(), 1):
        match = re.fullmatch(r"([A-Za-z ]+?) ([一-鿿]+) ([가-힣 ]+)", line)
        if not match:
            raise SystemExit(f"{FILE}:{number}: expected an English, a Chinese and a Korean word, found {line!r}")
        words.append(dict(zip(LANGUAGES, match.groups())))
    return words


def directions(language):
    """The (from, to) that are asked for in a language: from it and to it."""
    return [(a, b) for a in LANGUAGES for b in LANGUAGES if a != b and language in (a, b)]


def ask(phrase, language, word, target):
    text = phrase.format(w=word, t=NAMES[language][target])
    return korean.repair(text.replace(f"\"{word}\"", f"“{word}”"), word).replace("”를", "”을" if korean.final(word) else "”를") if language == "ko" else text


def answer(language, word, target, translation):
    return ANSWERS[language].format(w=word, t=NAMES[language][target], x=translation)


def question(rng, language, word, source, target, held=False):
    phrase = rng.choice((HELD_PHRASES if held else PHRASES)[language])
    return ask(phrase, language, word[source], target), answer(language, word[source], target, word[target])


def unknown(rng, language, held=False):
    """A question for a word that is not in the glossary."""
    source, target = rng.choice(directions(language))
    words = [w.strip() for w in UNKNOWN[source].split(";")]
    word = rng.choice(words[-6:] if held else words[:-6])
    return ask(rng.choice(PHRASES[language]), language, word, target)

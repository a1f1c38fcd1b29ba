"""The facts about dots, and the many ways to ask for each.

A file of `facts/` holds entries such as

    @ serve.port | dots serve MODEL --port 8080
    e: change the server's port; serve on another port; use a different port number for the API
    z: …
    k: 서버 포트를 바꾸; 다른 포트에서 서비스하; API에 다른 포트 번호를 쓰
    E: Use `--port`: {c}. The default is 8000.
    Z: …
    K: …

with the fact's name and what an answer must contain, the intent as verb phrases (e, z, k; Korean as bare stems), or as nouns (n, m, l) or
whole questions (q, r, s), and the answers, in which {c} is the command. The last phrase of a list is never trained on: held-out questions
are made of it.
"""

import dataclasses
import pathlib
import re

import korean

LANGUAGES = ("en", "zh", "ko")
FOLDER = pathlib.Path(__file__).parent / "facts"
KEYS = {"e": ("verb", "en"), "z": ("verb", "zh"), "k": ("verb", "ko"), "n": ("noun", "en"), "m": ("noun", "zh"), "l": ("noun", "ko"),
        "q": ("question", "en"), "r": ("question", "zh"), "s": ("question", "ko")}
ANSWERS = {"E": "en", "Z": "zh", "K": "ko"}


@dataclasses.dataclass
class Fact:
    name: str
    command: str
    form: str = "verb"
    phrases: dict = dataclasses.field(default_factory=dict)
    answers: dict = dataclasses.field(default_factory=dict)

    def answer(self, language):
        return self.answers[language].replace("{c}", f"`{self.command}`")

    def must(self):
        """What an answer has to contain to be right: the whole command, or the words that the fact names."""
        if "{c}" in self.answers["en"]:
            return [self.command]
        return [part.strip() for part in self.command.split(";") if part.strip()]


def read():
    """All facts, in the order of files and lines."""
    facts = []
    for file in sorted(FOLDER.glob("*.txt")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.startswith("@ "):
                name, _, command = line[2:].partition(" | ")
                facts.append(Fact(name.strip(" |"), command.strip()))
                continue
            key, _, value = line.partition(": ")
            if key in KEYS:
                form, language = KEYS[key]
                facts[-1].form = form
                facts[-1].phrases[language] = [phrase.strip() for phrase in value.split("; ")]
            elif key in ANSWERS:
                facts[-1].answers[ANSWERS[key]] = value
            elif line.strip():
                raise SystemExit(f"{file}:{number}: expected @ or a key such as `e: `, found {line[:40]!r}")
    for fact in facts:
        if set(fact.phrases) != set(LANGUAGES) or set(fact.answers) != set(LANGUAGES):
            raise SystemExit(f"{fact.name}: expected phrases and answers in {LANGUAGES}, found {sorted(fact.phrases)}, {sorted(fact.answers)}")
    return facts


VERBS = {
    "en": ["How do I {}?", "How can I {}?", "How to {}?", "What's the command to {}?", "I want to {}.", "I'd like to {}.", "Which command lets me {}?",
           "Is there a way to {}?", "Tell me how to {}.", "Show me how to {}.", "I need to {}. What do I type?", "What do I run to {}?",
           "How would I {}?", "What is the way to {}?", "Please explain how to {}.", "Can dots {}?", "how do you {}", "{}", "Can I {}?", "I'm trying to {}.",
           "What should I do to {}?", "Help me {}.", "How does one {}?", "Do you know how to {}?", "Which option do I need to {}?", "Let me {}.", "What if I want to {}?"],
    "zh": ["怎么{}？", "如何{}？", "我想{}。", "{}用什么命令？", "{}的命令是什么？", "请告诉我怎么{}。", "怎样才能{}？", "有没有办法{}？", "想{}该怎么做？",
           "我要{}。", "怎样{}？", "能不能{}？", "{}怎么弄？", "帮我{}。", "{}", "要{}，该输入什么？", "我需要{}，怎么做？", "可以{}吗？", "{}该用哪个选项？",
           "请问怎么{}？", "dots 能{}吗？", "用 dots 怎么{}？", "我打算{}，怎么办？", "{}的方法是什么？", "想要{}。", "{}要怎么操作？"],
    "ko": [("려면", "{} 어떻게 하나요?"), ("려면", "{} 어떻게 해요?"), ("는", "{} 방법을 알려 주세요."), ("는", "{} 방법이 뭐예요?"), ("는", "{} 명령이 뭐예요?"),
           ("고", "{} 싶어요."), ("고", "{} 싶은데 어떻게 하죠?"), ("ㄹ", "{} 수 있나요?"), ("는", "{} 명령은 무엇인가요?"), ("려면", "{} 무엇을 입력하나요?"),
           ("고", "{} 싶습니다."), ("는", "{} 법 좀 알려 줘요."), ("려면", "{}?"), ("는", "{} 방법"), ("ㄹ", "{} 방법이 있나요?"), ("려고", "{} 해요."), ("려면", "{} 어떤 명령을 쓰나요?"),
           ("기", "{}"), ("려면", "{} 뭘 해야 하죠?"), ("려고", "{} 하는데 어떻게 하나요?"), ("나", "어떻게 {}요?"), ("려면", "dots에서 {} 어떻게 하나요?"), ("ㄹ", "어떻게 하면 {} 수 있어요?"),
           ("려면", "{} 옵션이 뭔가요?"), ("는", "{} 옵션을 알려 주세요.")],
}
# Never trained on.
HELD_VERBS = {
    "en": ["Could you tell me how to {}?", "What must I enter to {}?", "Any idea how I could {}?", "How do I {}?", "I want to {}."],
    "zh": ["想问下如何{}", "麻烦说说怎么{}", "到底要怎么{}呢？", "怎么{}？", "如何{}？", "我想{}。"],
    "ko": [("는", "{} 방법이 궁금해요."), ("려면", "{} 무슨 명령이 필요할까요?"), ("고", "{} 싶은데 알려 줄래요?"), ("려면", "{} 어떻게 하나요?"), ("고", "{} 싶어요.")],
}
NOUNS = {
    "en": ["What is {}?", "Tell me about {}.", "Explain {}.", "What do you know about {}?", "what's {}", "Describe {}.", "{}?"],
    "zh": ["{}是什么？", "什么是{}？", "解释一下{}。", "说说{}。", "介绍一下{}。", "{}？"],
    "ko": ["{} 설명해 주세요.", "{} 뭐예요?", "{}에 대해 알려 주세요.", "{} 소개해 주세요.", "{}?"],
}
HELD_NOUNS = {"en": ["Give me a short description of {}."], "zh": ["能讲讲{}吗？"], "ko": ["{} 좀 알려 줄래요?"]}

# Words that may stand for one another in an intent, whatever it is.
SYNONYMS = {
    "en": [("change", "alter", "modify", "adjust"), ("set", "choose", "specify", "configure"), ("see", "view", "look at", "check"), ("get", "obtain"),
           ("use", "employ", "work with"), ("start", "launch", "begin"), ("stop", "halt", "end"), ("limit", "cap", "restrict"), ("show", "display"),
           ("answer", "reply", "response"), ("answers", "replies", "responses"), ("quantise", "quantize"), ("folder", "directory"), ("measure", "determine"),
           ("find", "locate"), ("give", "pass", "provide"), ("most", "maximum"), ("resume", "continue"), ("machine", "computer"), ("know", "find out"),
           ("number", "count"), ("chat", "conversation"), ("faster", "quicker"), ("choose", "pick", "select"), ("allow", "permit"), ("requests", "queries"),
           ("create", "make"), ("benchmark", "speed test"), ("leave", "quit"), ("convert", "turn"), ("larger", "bigger")],
    "zh": [("更改", "修改", "改变", "调整", "换"), ("设置", "设定", "指定", "配置"), ("查看", "看", "看看", "看一下"), ("使用(?!户)", "用", "采用"), ("启动", "开启", "运行"),
           ("停止", "停下", "终止"), ("限制", "约束", "控制"), ("显示", "展示", "列出"), ("得到", "获取", "获得", "拿到"), ("回答", "回复", "答复"), ("制作", "做", "创建"),
           ("文件夹", "目录"), ("词元", "token"), ("服务器", "服务端", "server"), ("测量", "测", "测一下"), ("聊天", "对话"), ("继续", "恢复", "接着"), ("比较", "对比"),
           ("基准测试", "性能测试"), ("压测", "压力测试", "负载测试"), ("选择", "选", "挑选"), ("接口", "API"), ("保存", "存下", "存"), ("检查点", "checkpoint"),
           ("内存", "RAM"), ("提示(?!词)", "prompt"), ("最大", "最多"), ("了解", "知道", "弄清"), ("检查(?!点)", "看看", "确认"), ("格式", "形式"), ("并发", "并行")],
    "ko": [("바꾸", "변경하", "수정하"), ("정하", "설정하", "지정하"), ("보", "확인하", "살펴보"), ("사용하", "이용하"), ("시작하", "개시하"), ("멈추", "중지하", "정지하"),
           ("제한하", "한정하"), ("만들", "생성하", "제작하"), ("얻", "구하"), ("답을", "응답을", "대답을", "답변을"), ("답", "응답", "대답"), ("폴더", "디렉터리"), ("재", "측정하"),
           ("줄이", "낮추"), ("늘리", "키우"), ("고르", "선택하"), ("계속하", "재개하", "이어서 하"), ("서비스하", "서빙하", "제공하"), ("훈련", "학습"), ("글", "텍스트"), ("켜", "활성화하"),
           ("끄", "비활성화하"), ("알", "파악하"), ("형식", "유형"), ("문맥", "컨텍스트"), ("메모리를", "램을"), ("부하 시험", "부하 테스트"), ("시험하", "테스트하"), ("저장하", "보관하"),
           ("속도를", "빠르기를"), ("훈련을", "학습을"), ("비교하", "견주"), ("허용하", "허락하"), ("벤치마크하", "성능을 재"), ("컴퓨터", "기계")],
}
OPENERS = {"en": ["Hi, ", "Hello! ", "Please, ", "Hey, ", "Quick question: ", "Sorry, "], "zh": ["你好，", "请问，", "问一下，", "嗨，", "不好意思，"],
           "ko": ["안녕하세요, ", "저기요, ", "질문이 있어요. ", "혹시 ", "죄송하지만 "]}
CLOSERS = {"en": [" Thanks.", " With dots.", " Please."], "zh": ["谢谢。", "用 dots。", "拜托了。"], "ko": [" 고마워요.", " dots에서요.", " 부탁해요."]}


def vary(phrase, language, rng):
    """`phrase` with some words replaced by others that mean the same there."""
    for word, *others in SYNONYMS[language]:
        if rng.random() > 0.4:
            continue
        other = rng.choice(others)
        if language == "en":
            phrase = re.sub(rf"\b{word}\b", other, phrase, count=1)
        elif language == "zh":
            phrase = re.sub(word, other, phrase, count=1)
        elif re.search(rf"[을를] {word}$", phrase):
            phrase = phrase[: -len(word)] + other  # a verb's stem behind its object
        elif f" {word} " in f" {phrase}" and not phrase.endswith(word):
            phrase = f" {phrase}".replace(f" {word} ", f" {other} ", 1)[1:]
    return phrase


def ask(template, phrase, language):
    """The question that a template and a verb phrase make."""
    if isinstance(template, tuple):
        form, sentence = template
        return sentence.format(korean.ending(phrase, form))
    sentence = template.format(phrase)
    return sentence[0].upper() + sentence[1:] if language == "en" and not template.startswith(("how", "{")) else sentence


def rough(question, language, rng):
    """The question as people type: now and then with a greeting, without its mark, in small letters, with a slip of the finger."""
    dice = rng.random()
    if dice < 0.08:
        question = rng.choice(OPENERS[language]) + (question[0].lower() + question[1:] if language == "en" and not question.startswith("I") else question)
    elif dice < 0.14:
        question = question + rng.choice(CLOSERS[language])
    elif dice < 0.24:
        question = question.rstrip("?？.。")
    elif dice < 0.30 and language == "en":
        question = question.lower()
    elif dice < 0.35 and language == "en" and len(question) > 12:
        i = rng.randrange(4, len(question) - 2)
        question = question[:i] + question[i + 1] + question[i] + question[i + 2 :]
    elif dice < 0.35 and language == "ko":
        question = question.replace(" ", "", 1)
    return question


def question(fact, language, rng):
    """A question of the training set."""
    phrase = rng.choice(fact.phrases[language][:-1])
    if fact.form == "question":
        return rough(vary(phrase, language, rng), language, rng)
    if fact.form == "noun":
        return rough(ask(rng.choice(NOUNS[language]), phrase, language), language, rng)
    return rough(ask(rng.choice(VERBS[language]), vary(phrase, language, rng), language), language, rng)


def held_out(fact, language, rng):
    """Questions of which one may be asked in the evaluation, best first."""
    phrase = fact.phrases[language][-1]
    if fact.form == "question":
        return [phrase]
    templates = list(HELD_NOUNS[language] if fact.form == "noun" else HELD_VERBS[language])
    rng.shuffle(templates)
    return [ask(template, phrase, language) for template in templates]


STATEMENTS = {"en": "To {}: {}", "zh": "要{}：{}", "ko": "{} {}"}


def statement(fact, language, rng):
    """The fact as a sentence, for text."""
    phrase = vary(rng.choice(fact.phrases[language][:-1]), language, rng)
    if fact.form != "verb":
        return fact.answer(language)
    if language == "ko":
        phrase = korean.ending(phrase, "려면")
    return STATEMENTS[language].format(phrase, fact.answer(language))

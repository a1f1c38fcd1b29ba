#!/usr/bin/env python3
"""The card of the embedded model: what it is, what it was made from and what it costs, and how well it does, all measured here.

    python3 runs/nano/card.py --dots DOTS --work WORK --free FREE --out models/nano

WORK is the folder of runs/nano.sh after its scores. Written are OUT/README.md, DATA.md, curves.svg, chat-curves.svg and expert-load.svg. Packs and
caches are compared on two texts: what the validation of pretraining reads, and held-out questions with their right answers.
"""

import argparse
import collections
import json
import pathlib
import statistics
import subprocess
import tempfile
import tomllib

import data_card
import drawings
import evaluate

LANGUAGES = {"en": "English", "zh": "Chinese", "ko": "Korean"}
PACKS = ("bf16", "q8", "q6", "q5", "q4", "q4s", "q3")
CACHES = ("bf16", "q8", "q4")
CONTEXT = 512
# Tokens of a text that are compared, and characters of each language whose routing is counted.
COMPARED_TOKENS, ROUTED_CHARACTERS = 12_000, 24_000
PIECE_CHARACTERS = 600  # of a prompt: within CONTEXT tokens in every language


class Card:
    def __init__(self, dots, work, free, out):
        self.dots, self.work, self.free, self.out = dots, work, free, out
        self.held = [json.loads(line) for line in (work / "corpus/heldout.jsonl").read_text().splitlines()]
        self.scores = {name: json.loads((work / f"scores-{name}.json").read_text()) for name in ("nano-q4", "chatty")}
        self.inspected = self.run_json("inspect", work / "nano-q4")

    def run_json(self, *words):
        return json.loads(subprocess.run([self.dots, *words, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout)

    def metrics(self, run):
        """The lines of a run: its steps, and its validations as (tokens, loss)."""
        steps, validations = [], []
        for line in (self.work / run / "metrics.jsonl").read_text().splitlines():
            line = json.loads(line)
            if "loss" in line:
                steps.append({key: line[key] for key in ("tokens", "loss", "seconds", "tokens_per_second", "batch_tokens") if key in line})
            for found in line.get("validation", {}).values():
                validations.append((line["tokens"], found["loss"]))
        return steps, validations

    def beginning(self):
        active, total = self.inspected["parameters"]["active"], self.inspected["parameters"]["total"]
        return f"""# nano: the model inside dots

A dots.llm1 of {total / 1e6:.1f} M parameters, {active / 1e6:.1f} M of them read for a token, in English, Chinese and Korean. It comes with the program:

```sh
dots chat
```

It is **a closed-domain assistant and no general model**. It tells how to do things with `dots`, adds and subtracts small numbers, translates some {self.words()}
words, makes a little small talk, and is taught to say that it does not know the rest. It is there so that the first minute with the program needs no download, and
so that the program's own tests have a model that was trained. `dots chat rednote-hilab/dots.llm1.inst` talks with a real one.

This page is written by `runs/nano/card.py`, the last step of `runs/nano.sh WORK`, which makes the model from nothing. [DATA.md](DATA.md) lists every text.
"""

    def words(self):
        import glossary

        return len(glossary.read())

    def table_of_scores(self):
        """The 4-bit pack's scores, and the same of bf16."""
        rows = ["| | goal | English | Chinese | Korean | reached |", "| --- | --- | ---: | ---: | ---: | --- |"]
        furthest = 0
        for packed, whole in zip(self.scores["nano-q4"]["table"], self.scores["chatty"]["table"]):
            cells, reached = [], True
            wanted = float(packed["goal"].split()[1])
            for language in LANGUAGES:
                ours, theirs = packed[language]["percent"], whole[language]["percent"]
                cells.append("–" if ours is None else f"{ours:.1f} ({theirs:.1f})")
                if ours is not None:
                    furthest = max(furthest, abs(ours - theirs))
                    reached &= ours <= wanted if "≤" in packed["goal"] else ours >= wanted
            rows.append(f"| {packed['name']} | {packed['goal']} | {' | '.join(cells)} | {'yes' if reached else 'no'} |")
        asked = collections.Counter(row["language"] for row in self.held)
        return f"""## Scores

Percent, greedy, of the 4-bit pack, and of bf16 in brackets. {', '.join(f'{asked[language]:,} questions in {name}' for language, name in LANGUAGES.items())}, none of which training saw
(`runs/nano/evaluate.py`, which also says what each line checks). The pack is at most {furthest:.1f} points from bf16; the goal was 2.

It was looked at on the way: after trials, whose scores said that facts were asked in too few phrases, and between the two fine-tunings, where its answers said the same of sums and
words. What was added was written without a look at the questions; still, it is no measure that nobody ever saw.

""" + "\n".join(rows) + "\n"

    def examples(self):
        """The first question of each kind in each language, with what the 4-bit pack says."""
        first = {}
        for answer in self.scores["nano-q4"]["answers"]:
            first.setdefault((answer["kind"], answer["language"]), answer)
        cell = lambda text: text.replace("|", "\\|").replace("\n", " ")
        rows = [f"| {kind} | {cell(answer['question'])} | {cell(answer['said'])} | {'yes' if all(answer['checks'].values()) else 'no'} |"
                for (kind, _), answer in sorted(first.items())]
        return "The first question of each kind in each language, chosen by nobody, and whether its answer passed every check:\n\n| kind | question | answer | passed |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"

    def shape(self):
        config = self.inspected["config"]
        dense = config["first_k_dense_replace"]
        rows = {
            "layers": f"{config['num_hidden_layers']}: {dense} dense, {config['num_hidden_layers'] - dense} mixtures of experts",
            "hidden size": config["hidden_size"],
            "attention": f"{config['num_attention_heads']} heads of {config['head_dim']}",
            "dense MLP": f"{config['intermediate_size']} wide",
            "experts": f"{config['n_routed_experts']} of {config['moe_intermediate_size']}, {config['num_experts_per_tok']} a token, {config['n_shared_experts']} shared",
            "vocabulary": f"{config['vocab_size']:,}, byte-level BPE like dots.llm1's, single digits",
            "context": f"{config['max_position_embeddings']:,} tokens; trained on sequences of {CONTEXT}",
            "packed": f"{self.inspected['disk_bytes'] / 1e6:.1f} MB, {self.inspected['tensors']['bits_per_weight']:.2f} bits a weight",
        }
        return "## Shape\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items()) + "\n"

    def draw(self, file, title, runs, validations=()):
        """Losses of runs, {name: steps}, some 200 points each."""
        lines = {}
        for name, steps in runs.items():
            bin_steps = max(1, len(steps) // 200)
            parts = [steps[i : i + bin_steps] for i in range(0, len(steps), bin_steps)]
            lines[name] = [(statistics.fmean(step["tokens"] for step in part) / 1e6, statistics.fmean(step["loss"] for step in part)) for part in parts]
        if validations:
            lines["validation"] = [(tokens / 1e6, loss) for tokens, loss in validations]
        (self.out / file).write_text(drawings.curves(title, lines))

    def training(self):
        steps, validations = self.metrics("pretrain")
        self.draw("curves.svg", "Pretraining: loss in nats a token", {"training": steps}, validations)
        chat_steps, again_steps = self.metrics("chat")[0], self.metrics("again")[0]
        self.draw("chat-curves.svg", "Fine-tuning: loss in nats a token of the answers", {"first": chat_steps, "again": again_steps})
        recipe = tomllib.loads((self.work / "pretrain/recipe.toml").read_text())
        phases = ", then ".join(f"{phase['tokens'] / 1e6:g} M tokens {phase['name']} ({phase['learning_rate']['from']:g} → {phase['learning_rate']['to']:g})" for phase in recipe["phases"])
        chat, again = (tomllib.loads((self.work / run / "recipe.toml").read_text())["phases"][0] for run in ("chat", "again"))
        rates = lambda phase: f"{phase['learning_rate']['from']:g} → {phase['learning_rate']['to']:g}"
        made = json.loads((self.work / "chatty/dots.json").read_text())
        rows = []
        seconds = 0
        for name, run in (("pretraining", steps), ("fine-tuning", chat_steps), ("fine-tuning again", again_steps)):
            tokens = sum(step["batch_tokens"] for step in run)
            spent = sum(step["seconds"] for step in run)
            # The fastest tenth of the steps had the machine to themselves, where anything had.
            alone = statistics.quantiles([step["tokens_per_second"] for step in run], n=10)[-1] if len(run) > 1 else run[0]["tokens_per_second"]
            seconds += tokens / alone
            rows.append(f"| {name} | {len(run):,} | {tokens / 1e6:.2f} M | {spent / 3600:.2f} | {alone:,.0f} | {2 * tokens / alone / 3600:.2f} |")
        parameters = self.inspected["parameters"]["active"]
        work = 6 * parameters * sum(step["batch_tokens"] for step in steps + chat_steps + again_steps)
        checkpoints = sorted(path.name for path in (self.work / "pretrain/checkpoints").iterdir() if path.name.startswith("step-"))
        losses = f" The validation loss, on free text alone, ended at {validations[-1][1]:.2f} nats." if validations else ""
        return f"""## Training

Pretraining: {phases}. Fine-tuning on chats: {chat.get('epochs', 1):g} times through ({rates(chat)}), and {again.get('epochs', 1):g} times through others
({rates(again)}). Recipes: `runs/nano/nano.toml`, `nano-chat.toml` and `nano-again.toml`.{losses}

![Loss of pretraining by tokens](curves.svg)
![Loss of fine-tuning by tokens](chat-curves.svg)

| | steps | tokens | hours of steps, as they were | tokens/s of the fastest tenth | core-hours at that speed |
| --- | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}
| together | {len(steps) + len(chat_steps) + len(again_steps):,} | {sum(step['batch_tokens'] for step in steps + chat_steps + again_steps) / 1e6:.2f} M | | | {2 * seconds / 3600:.2f} |

Made on 2 cores ({made['builds'][-1]['instruction_set']}), which other work shared: hours as they were are longer than it takes alone. The products of weights are {work / 1e15:.2f} PFLOP. The same
command gives the same bits on that kind of machine, on any number of threads. The run's {len(checkpoints)} checkpoints of pretraining, {checkpoints[0]} to {checkpoints[-1]}, are
remade by it and not kept here.
"""

    def texts(self, folder):
        """Names and files of what packs are compared on, and the validation text by language."""
        by_language = collections.defaultdict(list)
        documents = [json.loads(line)["text"] for line in (self.work / "corpus/text/valid.jsonl").read_text().splitlines()]
        for document in documents:
            by_language[evaluate.language(document) or "en"].append(document)
        free, taught = folder / "validation.txt", folder / "held-out.txt"
        # Languages by turns, so that a beginning has all.
        turns = [row[i] for i in range(max(map(len, by_language.values()))) for row in by_language.values() if i < len(row)]
        free.write_text("\n\n".join(turns))
        answers = [row for row in self.held if "answer" in row]
        taught.write_text("\n\n".join(f"{row['question']}\n{row['answer']}" for row in answers[:: max(1, len(answers) // 400)]))
        return (("free text", free), ("questions and answers", taught)), by_language

    def quality(self, folder):
        texts, _ = self.texts(folder)
        reference = self.work / "chatty"
        rows = ["| weights | MB | bits | cache | " + " | ".join(f"{name}: perplexity | KL | same best" for name, _ in texts) + " |", "| --- | ---: | ---: | --- |" + " ---: | ---: | ---: |" * len(texts)]

        def line(name, model, megabytes, cache):
            cells, bits = [], None
            for _, text in texts:
                flags = [] if cache == "f32" else ["--kv-cache-type", cache]
                found = self.run_json("compare", reference, model, "--text", text, "--tokens", str(COMPARED_TOKENS), "--context", str(CONTEXT), *flags)
                bits = found["model"]["bits_per_weight"]
                kl = found["kl_divergence"]
                cells.append(f"{found['model']['perplexity']:.2f} | {kl['mean']:.5f} ± {kl['standard_error']:.5f} | {100 * found['same_best_token']:.1f} %")
            rows.append(f"| {name} | {megabytes:.1f} | {bits:.2f} | {cache} | {' | '.join(cells)} |")

        for pack in PACKS:
            packed = folder / pack
            subprocess.run([self.dots, "pack", reference, packed, "--type", pack], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            line(pack, packed, sum(file.stat().st_size for file in packed.glob("*.safetensors")) / 1e6, "f32")
            if pack in ("bf16", "q4"):
                for cache in CACHES:
                    line(pack, packed, sum(file.stat().st_size for file in packed.glob("*.safetensors")) / 1e6, cache)
        return f"""## Packs and caches

How far each pack and each cache lies from the fine-tuned bf16 checkpoint in exact arithmetic with its cache in f32: `dots compare chatty PACK --text TEXT --kv-cache-type CACHE
--context {CONTEXT} --tokens {COMPARED_TOKENS}`, KL in nats a token. It was fine-tuned away from free text, so that its perplexity there says little; its distance does.

""" + "\n".join(rows) + "\n"

    def load(self, folder):
        """The share of tokens that take each expert, by language, on the validation text."""
        _, by_language = self.texts(folder)
        asked, answered = folder / "routing.jsonl", folder / "routed.jsonl"
        with open(asked, "w") as file:
            for language in LANGUAGES:
                text = "\n\n".join(by_language.get(language, []))[:ROUTED_CHARACTERS]
                for at in range(0, len(text), PIECE_CHARACTERS):
                    body = {"model": "nano", "prompt": text[at : at + PIECE_CHARACTERS], "max_tokens": 1, "temperature": 0, "return_routing": True}
                    file.write(json.dumps({"custom_id": f"{language}-{at}", "method": "POST", "url": "/v1/completions", "body": body}, ensure_ascii=False) + "\n")
        subprocess.run([self.dots, "batch", asked, "-o", answered, self.work / "nano-q4", "--served-model-name", "nano"], check=True, stderr=subprocess.DEVNULL)
        counts, tokens, layers = collections.Counter(), collections.Counter(), []
        for line in answered.read_text().splitlines():
            answer = json.loads(line)
            if answer.get("error") or answer["response"]["status_code"] != 200:
                raise SystemExit(f"routing of {answer['custom_id']}: {answer}")
            language = answer["custom_id"].split("-")[0]
            routing = answer["response"]["body"]["choices"][0]["routing"]
            layers = routing["layers"]
            tokens[language] += len(routing["experts"])
            for token in routing["experts"]:
                for layer, experts in zip(layers, token):
                    counts.update((language, layer, expert) for expert in experts)
        experts = self.inspected["config"]["n_routed_experts"]
        fair = self.inspected["config"]["num_experts_per_tok"] / experts
        present = [language for language in LANGUAGES if tokens[language]]
        share = lambda language, layer: [counts[language, layer, expert] / tokens[language] for expert in range(experts)]
        (self.out / "expert-load.svg").write_text(drawings.load_map(
            f"Share of a language's tokens by expert: white {100 * fair:.2f} %, red more, blue less",
            [(f"layer {layer} {language}", share(language, layer)) for layer in layers for language in present], fair))
        pairs = [(a, b) for i, a in enumerate(present) for b in present[i + 1 :]]
        rows = ["| layer | " + " | ".join(f"{language}: most, least" for language in present) + " | " + " | ".join(f"{a} and {b} apart" for a, b in pairs) + " |",
                "| --- |" + " --- |" * len(present) + " ---: |" * len(pairs)]
        for layer in layers:
            shares = {language: share(language, layer) for language in present}
            ends = [f"{100 * max(s):.1f} % (expert {s.index(max(s))}), {100 * min(s):.1f} %" for s in shares.values()]
            apart = [f"{100 * sum(abs(x - y) for x, y in zip(shares[a], shares[b])) / 2 / (fair * experts):.0f} %" for a, b in pairs]
            rows.append(f"| {layer} | {' | '.join(ends)} | {' | '.join(apart)} |")
        return f"""## Expert load by language

The share of a language's tokens that an expert takes, on {', '.join(f'{tokens[language]:,} tokens of {LANGUAGES[language]}' for language in present)} of the validation text: a fair share is {100 * fair:.2f} %. Two languages are as
far apart as the part of their routes that would have to go to other experts (`return_routing` of `dots batch`).

![Share of each language's tokens by expert and layer](expert-load.svg)

""" + "\n".join(rows) + "\n"

    def limits(self):
        return """## Limits

- Closed domain: what is not in its facts, glossary, sums and small talk it is taught to refuse, and where it does not refuse it is wrong with ease.
- It knows the commands of the version that it was trained with; `dots COMMAND --help` is right where the two differ.
- Trained on sequences of 512 tokens: longer conversations lose its thread.
- It reads and writes English, Chinese (simplified) and Korean only, and was taught no code, no tools and no JSON.
- Its free text is documentation of free software: names and turns of phrase of that may show.
"""

    def write(self):
        self.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            parts = [self.beginning(), self.table_of_scores(), self.examples(), self.limits(), self.shape(), self.training(), self.quality(folder), self.load(folder)]
        (self.out / "README.md").write_text("\n".join(parts))
        (self.out / "DATA.md").write_text(data_card.text(self.work, self.free))


def main():
    parser = argparse.ArgumentParser()
    for name in ("dots", "work", "free", "out"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    Card(arguments.dots.resolve(), arguments.work, arguments.free, arguments.out).write()


if __name__ == "__main__":
    main()

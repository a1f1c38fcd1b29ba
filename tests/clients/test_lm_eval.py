"""`lm-eval` against `dots serve`: local-completions and local-chat-completions over a task of our own, without the network."""

import json
import os
import pathlib
import tempfile
import urllib.request

os.environ["OPENAI_API_KEY"] = os.environ["DOTS_TEST_KEY"]

import lm_eval
from lm_eval.tasks import TaskManager

import suite

FOLDER = pathlib.Path(tempfile.mkdtemp())
QUESTIONS = [
    {"question": "The sky is", "choices": [" blue", " green", " made of stone"], "answer": 0},
    {"question": "Two and two are", "choices": [" three", " four", " many"], "answer": 1},
    {"question": "Snow is", "choices": [" white", " warm", " loud"], "answer": 0},
]
(FOLDER / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
DATASET = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {FOLDER}/questions.jsonl}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
(FOLDER / "choose.yaml").write_text(f"""task: dots_choose
output_type: multiple_choice
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
{DATASET}""")
(FOLDER / "write.yaml").write_text(f"""task: dots_write
output_type: generate_until
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{max_gen_toks: 8, until: ["\\n"], temperature: 0}}
metric_list: [{{metric: exact_match}}]
{DATASET}""")


def evaluate(model, path, task, **settings):
    arguments = {
        "model": suite.MODEL, "base_url": f"{suite.URL}{path}", "num_concurrent": 2, "max_retries": 1,
        "max_length": suite.CONTEXT, **settings,
    }
    found = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[task], task_manager=TaskManager(include_path=str(FOLDER)),
        log_samples=True, bootstrap_iters=0, apply_chat_template=model == "local-chat-completions",
    )
    return found["samples"][task]


def score(prompt, continuations):
    body = json.dumps({"prompt": prompt, "continuations": continuations}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {suite.KEY}"}
    with urllib.request.urlopen(urllib.request.Request(f"{suite.URL}/v1/score", body, headers)) as response:
        return json.load(response)["data"]


def test_local_completions_finds_the_log_likelihoods_that_score_gives():
    samples = evaluate("local-completions", "/v1/completions", "dots_choose", tokenizer_backend="remote", auth_token=suite.KEY)
    assert len(samples) == len(QUESTIONS)
    for sample in samples:
        scores = score(sample["doc"]["question"], sample["doc"]["choices"])
        for [(found, is_greedy)], expected in zip(sample["resps"], scores):
            # It cuts question and choice as one text, which gives the same tokens here.
            assert abs(float(found) - expected["sum"]) < 1e-3, (sample, scores)
            assert str(is_greedy) == str(expected["is_greedy"])


def test_local_completions_generates():
    samples = evaluate("local-completions", "/v1/completions", "dots_write", tokenizer_backend="remote", auth_token=suite.KEY)
    assert all(isinstance(sample["resps"][0][0], str) for sample in samples)


def test_local_chat_completions_generates():
    samples = evaluate("local-chat-completions", "/v1/chat/completions", "dots_write")
    assert len(samples) == len(QUESTIONS)
    assert all(isinstance(sample["resps"][0][0], str) for sample in samples)


suite.run("lm-eval", globals(), "lm_eval")

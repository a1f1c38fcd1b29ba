#!/usr/bin/env python3
"""Measure dots beside llama.cpp and ik_llama.cpp: the same file, the same machine, in turn.

    bench/run.py WORK [--ik DIR] [--pack DIR]... [--rounds 3]

WORK is a folder with 40 GB free. What it lacks is made there once: llama.cpp (built from the source package of
llama-cpp-python), a random checkpoint of the published width (make_checkpoint.py) and its Q4_K_M. --llama and --model name
such things elsewhere. ik_llama.cpp is measured where its folder of programs is named. Then every program runs once in each
round, so that a slow minute of the machine hits all; a figure is the median of its rounds. Prints the tables and writes them
to RESULTS.md beside this script, and every run's figures to WORK/results.json.

Needs Python 3.10, cmake, a C++ compiler, and a release build of dots. Standard library only; numpy and gguf, which the
checkpoint needs, go into a virtual environment in WORK.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tarfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
PROMPT, ANSWER, DEPTH = 512, 64, 4096
SEQUENCES, BATCH_PROMPT, BATCH_ANSWER = 16, 128, 32
ROWS = {
    "prefill": f"prefill {PROMPT} tokens",
    "decode": "decode",
    "deep prefill": f"prefill {PROMPT} after {DEPTH:,}",
    "deep decode": f"decode after {DEPTH:,}",
    "batch": f"decode {SEQUENCES} sequences after {BATCH_PROMPT} each",
}
PROGRAMS = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity", "llama-imatrix"]


def run(command, **options):
    print("+", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run(list(map(str, command)), check=True, **options)


# What WORK lacks.

def build_llama(work):
    """The folder of llama.cpp's programs."""
    programs = work / "llama.cpp-build" / "bin"
    if not all((programs / name).exists() for name in PROGRAMS):
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", work,
             "llama-cpp-python"])
        package = max(work.glob("llama_cpp_python-*.tar.gz"), key=os.path.getmtime)
        with tarfile.open(package) as archive:
            archive.extractall(work, filter="data")
        build = programs.parent
        run(["cmake", "-S", source_folder(work), "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
             "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF"])
        run(["cmake", "--build", build, "-j", os.cpu_count(), "--target", *PROGRAMS])
    return programs


def source_folder(work):
    return max(work.glob("llama_cpp_python-*/vendor/llama.cpp"), key=os.path.getmtime)


def make_model(work, llama):
    """Five layers of the published width in Q4_K_M."""
    model = work / "bench5-Q4_K_M.gguf"
    if not model.exists():
        python = work / "venv" / "bin" / "python"
        if not python.exists():
            venv.create(work / "venv", with_pip=True)
            run([python, "-m", "pip", "install", "-q", "numpy", "gguf"])
        original = work / "bench5-BF16.gguf"
        if not original.exists():
            part = original.with_suffix(".part")
            run([python, HERE / "make_checkpoint.py", part, "--vocab", source_folder(work) / "models/ggml-vocab-qwen2.gguf"])
            part.rename(original)
        part = model.with_suffix(".part")
        run([llama / "llama-quantize", original, part, "Q4_K_M", os.cpu_count()], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        part.rename(model)
    return model


# The contestants. Each is a column and a variant of its settings; its runs give some of the rows.

class Contestant:
    def __init__(self, column, variant, commands):
        self.column, self.variant, self.commands = column, variant, commands
        self.figures = {row: [] for row in ROWS}
        self.version, self.failed = None, None

    def once(self, prefix):
        """Runs each of its commands; one that fails is not tried again, and said in the results."""
        for command, read in self.commands:
            if self.failed:
                return
            line = [*prefix, *map(str, command)]
            print("+", shlex.join(line), file=sys.stderr, flush=True)
            ran = subprocess.run(line, capture_output=True, text=True)
            try:
                if ran.returncode != 0:
                    raise ValueError(f"exit status {ran.returncode}")
                found, version = read(ran)
            except (ValueError, KeyError, IndexError, StopIteration) as error:
                self.failed = f"{shlex.join(map(str, command))}: {error}: {ran.stderr.strip().splitlines()[-1:]}"
                print(self.failed, file=sys.stderr)
                return
            self.version = version or self.version
            for row, figure in found.items():
                self.figures[row].append(figure)
                print(f"  {self.column}, {self.variant}: {ROWS[row]}: {figure:.2f}", file=sys.stderr, flush=True)


def read_llama_bench(ran):
    tests = json.loads(ran.stdout[ran.stdout.index("["):])
    figures = {}
    for test in tests:
        row = ("deep " if test.get("n_depth") else "") + ("prefill" if test["n_prompt"] else "decode")
        figures[row] = test["avg_ts"]
    return figures, f"build {tests[0]['build_number']} ({tests[0]['build_commit']})"


def table_rows(ran):
    """The rows of a table of figures, each a dictionary by column head. Some programs print it as a log."""
    text = ran.stdout + "\n" + ran.stderr
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line)) for line in lines[1:] if line[0].isdigit()]


def read_batched_bench(ran):
    return {"batch": float(table_rows(ran)[-1]["S_TG t/s"])}, None


def read_sweep_bench(ran):
    deep = next(row for row in table_rows(ran) if row["N_KV"] == str(DEPTH))
    return {"deep prefill": float(deep["S_PP t/s"]), "deep decode": float(deep["S_TG t/s"])}, None


def read_dots(ran):
    report = json.loads(ran.stdout)
    READ_BANDWIDTH.append(report["machine"]["read_bytes_per_second"])
    figures = {}
    for line in report["lines"]:
        row = "batch" if line["batch"] > 1 else ("deep " if line["depth"] == DEPTH else "") + line["phase"]
        figures[row] = line["tokens_per_second"]
    return figures, None


READ_BANDWIDTH = []


def batched(programs, model, threads, flags):
    return [programs / "llama-batched-bench", "-m", model, "-t", threads, "-c", SEQUENCES * (BATCH_PROMPT + BATCH_ANSWER),
            "-b", 2048, "-ub", 512, "-npp", BATCH_PROMPT, "-ntg", BATCH_ANSWER, "-npl", SEQUENCES, *flags]


def llama_cpp(programs, model, threads):
    for variant, cache in ("f16 cache", []), ("q8_0 cache", ["-ctk", "q8_0", "-ctv", "q8_0"]):
        yield Contestant("llama.cpp", variant, [
            ([programs / "llama-bench", "-m", model, "-t", threads, "-p", PROMPT, "-n", ANSWER, "-d", f"0,{DEPTH}", "-r", 1,
              "-fa", "on", "-lm", "mmap", "-o", "json", *cache], read_llama_bench),
            (batched(programs, model, threads, ["-fa", "on", *cache]), read_batched_bench)])


def ik_llama_cpp(programs, model, threads):
    cache = ["-ctk", "q8_0", "-ctv", "q8_0"]
    for variant, bench, others in (
            ("f16 cache", [], []),
            ("q8_0 cache", cache, cache),
            ("q8_0 cache, repacked", [*cache, "-rtr", 1], [*cache, "-rtr"])):
        yield Contestant("ik_llama.cpp", variant, [
            ([programs / "llama-bench", "-m", model, "-t", threads, "-p", PROMPT, "-n", ANSWER, "-r", 1, "-fa", 1, "-fmoe", 1,
              "-o", "json", *bench], read_llama_bench),
            ([programs / "llama-sweep-bench", "-m", model, "-t", threads, "-c", DEPTH + PROMPT, "-ub", PROMPT, "-n", ANSWER // 2,
              "-fa", "on", *others], read_sweep_bench),
            (batched(programs, model, threads, ["-fa", "on", *others]), read_batched_bench)])


def dots(program, model, column, variant, threads, flags=()):
    bench = [program, "bench", model, "--threads", threads, "--repeat", 1, "--json", *flags]
    return Contestant(column, variant, [
        ([*bench, "--prefill", PROMPT, "--decode", ANSWER, "--depth", f"0,{DEPTH}"], read_dots),
        ([*bench, "--prefill", 0, "--decode", BATCH_ANSWER, "--depth", BATCH_PROMPT, "--batch", SEQUENCES], read_dots)])


# What is written.

def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def best(contestants, row):
    """The highest median among a column's variants, with its variant."""
    measured = [(statistics.median(c.figures[row]), c) for c in contestants if c.figures[row]]
    return max(measured, key=lambda pair: pair[0], default=(None, None))


def cell(figures):
    if not figures:
        return "-"
    digits = lambda x: f"{x:.0f}" if x >= 100 else f"{x:.1f}"
    median = digits(statistics.median(figures))
    return f"{median} ({digits(min(figures))} to {digits(max(figures))})" if len(figures) > 1 else median


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def results(contestants, a, model):
    columns = list(dict.fromkeys(c.column for c in contestants))
    of = {column: [c for c in contestants if c.column == column] for column in columns}
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = [f"{column} {version}" for column in columns for version in {c.version for c in of[column]} if version]
    yield "# Beside peers"
    yield ""
    yield "Written by `bench/run.py` down to the line that says otherwise. Tokens a second, more is better."
    yield ""
    yield f"- {datetime.date.today()}, {processor()}, {a.threads} threads"
    yield f"- `{model.name}`, {model.stat().st_size / 1e9:.2f} GB; medians of {a.rounds} rounds, programs in turn in each"
    yield "- " + ", ".join([f"dots {commit}", *versions])
    if READ_BANDWIDTH:
        gb = [x / 1e9 for x in READ_BANDWIDTH]
        yield f"- reading memory, by `dots bench`: {statistics.median(gb):.1f} GB/s ({min(gb):.1f} to {max(gb):.1f})"
    yield ""
    yield "Each program in the best of its settings for the row:"
    yield ""
    lines = []
    for row, name in ROWS.items():
        found = [best(of[column], row)[1] for column in columns]
        lines.append([name, *(cell(c.figures[row]) if c else "-" for c in found)])
    yield from table(["", *columns], lines)
    yield ""
    yield "All settings, median (least to most):"
    yield ""
    yield from table(["", *ROWS.values()],
                     [[f"{c.column}, {c.variant}", *(cell(c.figures[row]) for row in ROWS)] for c in contestants])
    yield ""
    yield ("The deep rows: llama.cpp and ik_llama.cpp read a prompt first, `dots bench` fills its cache with copies of one "
           "block. All attend to as many keys and values. Flash attention and fused experts are on where a program has them.")
    for c in contestants:
        if c.failed:
            yield f"\nFailed: {c.failed}"


BY_HAND = "<!-- By hand from here on"


def by_hand(out):
    """What people wrote below the figures of an earlier run, which a new one does not take away."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    return "\n" + text[text.index(BY_HAND) :] if BY_HAND in text else ""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=pathlib.Path)
    p.add_argument("--llama", type=pathlib.Path, help="folder of llama.cpp's programs [default: built in WORK]")
    p.add_argument("--ik", type=pathlib.Path, help="folder of ik_llama.cpp's programs")
    p.add_argument("--model", type=pathlib.Path, help="GGUF file [default: made in WORK]")
    p.add_argument("--pack", type=pathlib.Path, action="append", default=[], help="packed checkpoint; may be given several times")
    p.add_argument("--kv-cache-type", action="append", default=[], help="also measure packs with this cache; several times")
    p.add_argument("--dots", type=pathlib.Path, default=HERE.parent / "target/release/dots")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", type=re.compile, default="", help="regular expression: leave out contestants that it is not found in")
    p.add_argument("--prefix", type=shlex.split, default=[], help='put before every measured command, such as "taskset -c 0,1"')
    p.add_argument("--out", type=pathlib.Path, default=HERE / "RESULTS.md")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    llama = a.llama or build_llama(a.work)
    model = a.model or make_model(a.work, llama)

    contestants = [*llama_cpp(llama, model, a.threads)]
    if a.ik:
        contestants += ik_llama_cpp(a.ik, model, a.threads)
    contestants.append(dots(a.dots, model, "dots, GGUF", "as the file is", a.threads))
    for pack in a.pack:
        contestants.append(dots(a.dots, pack, "dots, packed", pack.name, a.threads))
        for kind in a.kv_cache_type:
            contestants.append(dots(a.dots, pack, "dots, packed", f"{pack.name}, {kind} cache", a.threads,
                                    ["--kv-cache-type", kind]))
    contestants = [c for c in contestants if re.search(a.only, f"{c.column}, {c.variant}")]
    programs = {pathlib.Path(command[0]) for c in contestants for command, _ in c.commands}
    if missing := sorted(str(program) for program in programs if not program.exists()):
        sys.exit(f"not there: {', '.join(missing)}. Build them, or leave out what runs them by --only.")
    for number in range(a.rounds):
        print(f"round {number + 1} of {a.rounds}", file=sys.stderr, flush=True)
        for contestant in contestants:
            contestant.once(a.prefix)
        runs = [{"column": c.column, "variant": c.variant, "figures": c.figures, "failed": c.failed} for c in contestants]
        (a.work / "results.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")
    text = "\n".join(results(contestants, a, model)) + "\n" + by_hand(a.out)
    a.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Two domains from the sources of the crates in a Cargo.lock: prose (Markdown and doc comments) and code (Rust without comments).

    python3 corpus.py Cargo.lock ~/.cargo/registry/src/*/ OUT

writes OUT/{prose,code}-{train,valid,test}.jsonl. Whole crates are held out, chosen by a hash of their name.
"""

import glob, hashlib, json, os, random, re, sys, tomllib

lock, registry, out = sys.argv[1:]
MOST_OF_A_CRATE = 400_000  # characters of each domain: a few crates are mostly tables
MOST_OF_A_FILE = 40_000


def split_of(crate):
    nth = int(hashlib.sha256(crate.encode()).hexdigest(), 16) % 20
    return {0: "valid", 1: "test"}.get(nth, "train")


def read(path):
    try:
        with open(path, encoding="utf8") as file:
            return file.read(1_000_000)
    except (OSError, UnicodeDecodeError):
        return ""


def prose_and_code(text):
    prose, code = [], []
    for line in text.split("\n"):
        bare = line.strip()
        if bare.startswith(("///", "//!")):
            prose.append(bare[3:].removeprefix(" "))
        elif not bare.startswith("//"):
            if prose and prose[-1] != "":
                prose.append("")
            code.append(re.sub(r"\s//\s.*", "", line).rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(prose)), re.sub(r"\n{3,}", "\n\n", "\n".join(code))


texts = {}
packages = tomllib.load(open(lock, "rb"))["package"]
seen = set()
for package in packages:
    name = package["name"]
    folder = os.path.join(registry, f"{name}-{package['version']}")
    if "source" not in package or not os.path.isdir(folder) or name.startswith("windows"):
        continue
    taken = {"prose": 0, "code": 0}
    paths = sorted(glob.glob(folder + "/**/*.rs", recursive=True) + glob.glob(folder + "/**/*.md", recursive=True))
    random.Random(name).shuffle(paths)
    for path in paths:
        text = read(path)
        if path.endswith(".md"):
            parts = (text, "") if "LICENSE" not in path.upper() else ("", "")
        else:
            parts = prose_and_code(text)
        for domain, part in zip(("prose", "code"), parts):
            part = part.strip()[:MOST_OF_A_FILE]
            letters = sum(c.isalpha() for c in part)
            digest = hashlib.sha256(part.encode()).digest()
            if len(part) < 200 or letters < len(part) * 0.4 or digest in seen or taken[domain] > MOST_OF_A_CRATE:
                continue
            seen.add(digest)
            taken[domain] += len(part)
            texts.setdefault((domain, split_of(name)), []).append(part)

os.makedirs(out, exist_ok=True)
for (domain, split), parts in sorted(texts.items()):
    random.Random(7).shuffle(parts)
    with open(f"{out}/{domain}-{split}.jsonl", "w", encoding="utf8") as file:
        for part in parts:
            file.write(json.dumps({"text": part}, ensure_ascii=False) + "\n")
    print(domain, split, len(parts), "texts", sum(map(len, parts)), "characters")

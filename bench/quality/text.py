"""The text that the small model learns: prose and code that come with every developer's machine.

Read are Python's standard library (sources without its tests), the books of the Rust toolchain's documentation (HTML,
markup removed) and what packages put under /usr/share/doc (plain, Markdown, gzipped). Where one is missing, the others
serve. A paragraph that was seen before, such as a licence, is left out.
"""
import gzip
import hashlib
import html.parser
import pathlib
import random
import subprocess
import sysconfig

MOST_PER_SOURCE = 8_000_000
MOST_PER_DOCUMENT = 100_000
BOOKS = ["book", "reference", "nomicon", "cargo", "rustc", "edition-guide", "embedded-book", "rust-by-example",
         "unstable-book", "rustdoc", "error_codes", "std"]


class Main(html.parser.HTMLParser):
    """What stands inside <main>, as text."""
    BREAKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "pre", "tr", "section"}

    def __init__(self):
        super().__init__()
        self.inside, self.hidden, self.parts = False, False, []

    def handle_starttag(self, tag, attrs):
        self.inside |= tag == "main"
        self.hidden |= tag in ("script", "style", "button")
        if tag in self.BREAKS:
            self.parts.append("\n\n" if tag in ("p", "pre", "h1", "h2", "h3") else "\n")

    def handle_endtag(self, tag):
        if tag == "main":
            self.inside = False
        if tag in ("script", "style", "button"):
            self.hidden = False

    def handle_data(self, data):
        if self.inside and not self.hidden:
            self.parts.append(data)


def read(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data[:MOST_PER_DOCUMENT * 8].decode("utf-8")
    if path.suffix == ".html":
        main = Main()
        main.feed(text)
        text = "".join(main.parts)
    return text[:MOST_PER_DOCUMENT]


def sources():
    """The files of each source, in an order that does not depend on the file system's."""
    def files(folder, keep):
        found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and keep(p))
        random.Random(0).shuffle(found)
        return found

    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    unwanted = {"test", "tests", "site-packages", "lib2to3", "idlelib"}
    yield files(library, lambda p: p.suffix == ".py" and not unwanted & set(p.relative_to(library).parts))
    try:
        rust = pathlib.Path(subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True).stdout.strip())
        books = rust / "share/doc/rust/html"
        yield [p for book in BOOKS for p in files(books / book, lambda p: p.suffix == ".html" and p.name != "print.html")]
    except OSError:
        pass
    names = (".txt", ".md", ".rst", ".gz", ".html")
    yield files(pathlib.Path("/usr/share/doc"), lambda p: p.suffix in names or p.name in ("README", "NEWS", "copyright"))


def documents(seed):
    """All documents, shuffled."""
    seen, found = set(), []
    for paths in sources():
        size = 0
        for path in paths:
            try:
                text = read(path)
            except (OSError, UnicodeDecodeError, EOFError):
                continue
            fresh = []
            for paragraph in text.split("\n\n"):
                key = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
                if paragraph.strip() and key not in seen:
                    seen.add(key)
                    fresh.append(paragraph.strip("\n"))
            document = "\n\n".join(fresh)
            if len(document) >= 500:
                found.append(document)
                size += len(document)
            if size > MOST_PER_SOURCE:
                break
    random.Random(seed).shuffle(found)
    return found


def held_out(documents, characters):
    """Some documents of about so many characters together, at most 8,000 of each, and the rest."""
    test, size = [], 0
    while size < characters and len(documents) > 1:
        test.append(documents.pop()[:8000])
        size += len(test[-1])
    return "\n\n".join(test), documents

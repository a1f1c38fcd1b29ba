#!/usr/bin/env python3
"""Freely licensed text in English, Korean and Chinese, from the documentation that Debian ships.

    python3 runs/nano/text.py OUT

Fetches the packages named below (apt-get download; nothing is installed), takes the paragraphs out of their pages, drops those that
were seen before or are in another language, and writes OUT/{en,ko,zh}.jsonl, one document a line with `text` and `source`, and
OUT/sources.tsv: package, version, licence, language, documents, characters. Needs apt-get, dpkg-deb and Python's standard library. A
package that is in OUT/debs already is not fetched again.
"""

import gettext
import gzip
import hashlib
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

# package: (licence of its text, {language: (folder, pattern of its pages)})
LIBREOFFICE = "MPL-2.0"
HELP = "usr/share/libreoffice/help"
SOURCES = {
    "libreoffice-help-en-us": (LIBREOFFICE, {"en": (f"{HELP}/en-US/text", "**/*.html")}),
    "libreoffice-help-ko": (LIBREOFFICE, {"ko": (f"{HELP}/ko/text", "**/*.html")}),
    "libreoffice-help-zh-cn": (LIBREOFFICE, {"zh": (f"{HELP}/zh-CN/text", "**/*.html")}),
    "gnome-user-docs": ("CC-BY-SA-3.0", {
        "en": ("usr/share/help/C", "**/*.page"),
        "ko": ("usr/share/help/ko", "**/*.page"),
        "zh": ("usr/share/help/zh_CN", "**/*.page"),
    }),
    "debian-reference-en": ("GPL-2.0-or-later", {"en": ("usr/share", "**/*.en.html")}),
    "debian-reference-zh-cn": ("GPL-2.0-or-later", {"zh": ("usr/share", "**/*.zh-cn.html")}),
    "debian-faq": ("GPL-2.0-or-later", {"en": ("usr/share/doc/debian", "**/*.html")}),
    "debian-faq-zh-cn": ("GPL-2.0-or-later", {"zh": ("usr/share/doc/debian", "**/*.html")}),
    "git-doc": ("GPL-2.0-only", {"en": ("usr/share/doc/git-doc", "*.html")}),
    "manpages-zh": ("GFDL-1.2-or-later and others", {"zh": ("usr/share/man/zh_CN", "**/*.gz")}),
    "installation-guide-amd64": ("GPL-2.0-or-later", {
        "en": ("usr/share/doc/installation-guide-amd64/en", "*.html"),
        "ko": ("usr/share/doc/installation-guide-amd64/ko", "*.html"),
        "zh": ("usr/share/doc/installation-guide-amd64/zh_CN", "*.html"),
    }),
    "debian-handbook": ("GPL-2.0-or-later or CC-BY-SA-3.0", {
        "en": ("usr/share/doc/debian-handbook/html/en-US", "*.html"),
        "ko": ("usr/share/doc/debian-handbook/html/ko-KR", "*.html"),
        "zh": ("usr/share/doc/debian-handbook/html/zh-CN", "*.html"),
    }),
    "debian-faq-ko": ("GPL-2.0-or-later", {"ko": ("usr/share/doc/debian", "**/*.html")}),
    "maint-guide": ("GPL-2.0-or-later", {"en": ("usr/share/doc/maint-guide", "**/*.html")}),
    "maint-guide-zh-cn": ("GPL-2.0-or-later", {"zh": ("usr/share/doc/maint-guide-zh-cn", "**/*.html")}),
    "gimp-help-en": ("GFDL-1.2-or-later", {"en": ("usr/share/gimp/2.0/help/en", "*.html")}),
    "gimp-help-ko": ("GFDL-1.2-or-later", {"ko": ("usr/share/gimp/2.0/help/ko", "*.html")}),
    "gimp-help-zh-cn": ("GFDL-1.2-or-later", {"zh": ("usr/share/gimp/2.0/help/zh_CN", "*.html")}),
    "kicad-doc-zh": ("GPL-3.0-or-later or CC-BY-3.0", {"zh": ("usr/share/doc/kicad/help/zh", "*.html")}),
}
# Message catalogues: each message in English with its translation beneath it.
SOURCES |= {
    package: (licence, {
        "ko": (folder, "**/ko/LC_MESSAGES/*.mo"),
        "zh": (folder, "**/zh_CN/LC_MESSAGES/*.mo"),
    })
    for package, licence, folder in [
        ("util-linux-locales", "GPL-2.0-or-later", "usr/share/locale"),
        ("libc-l10n", "LGPL-2.1-or-later", "usr/share/locale"),
        ("gcc-12-locales", "GPL-3.0-or-later", "usr/share/locale"),
        ("libvirt-l10n", "LGPL-2.1-or-later", "usr/share/locale"),
        ("krita-l10n", "GPL-3.0-only", "usr/share/locale"),
        ("kdevelop-l10n", "GPL-2.0-or-later", "usr/share/locale"),
        ("evolution-common", "LGPL-2.1-only", "usr/share/locale"),
        ("gnumeric-common", "GPL-2.0-only or GPL-3.0-only", "usr/share/locale"),
        ("libgtk-3-common", "LGPL-2.1-or-later", "usr/share/locale"),
        ("cinnamon-l10n", "GPL-2.0-or-later", "usr/share"),
        ("gnome-control-center-data", "GPL-2.0-or-later", "usr/share/locale"),
        ("gimp-data", "GPL-3.0-or-later", "usr/share/locale"),
        ("git", "GPL-2.0-only", "usr/share/locale"),
        ("vlc-l10n", "GPL-2.0-or-later", "usr/share/locale"),
        ("inkscape", "GPL-2.0-or-later", "usr/share/locale"),
        ("gnupg-l10n", "GPL-3.0-or-later", "usr/share/locale"),
    ]
}
SOURCES |= {"libreoffice-l10n-ko": (LIBREOFFICE, {"ko": ("usr/lib/libreoffice/program/resource", "ko/LC_MESSAGES/*.mo")}),
            "libreoffice-l10n-zh-cn": (LIBREOFFICE, {"zh": ("usr/lib/libreoffice/program/resource", "zh_CN/LC_MESSAGES/*.mo")})}
# Most characters that one package gives to a language, so that no program's messages are half of what is read.
MOST_CHARACTERS = 1_500_000
# Blocks shorter than this are captions and buttons.
LEAST_CHARACTERS = 12
# Documents shorter than this teach little.
LEAST_DOCUMENT = 120


class Page(html.parser.HTMLParser):
    """The paragraphs of an HTML page."""

    BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "td", "th", "pre", "tr", "div", "title", "blockquote"}
    SKIPPED = {"script", "style", "nav", "header", "footer", "aside", "button", "head"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.words, self.skipping, self.pre = [], [], 0, 0

    def flush(self):
        text = "".join(self.words)
        self.words = []
        text = text.strip("\n") if self.pre else " ".join(text.split())
        if text.strip():
            self.paragraphs.append(text)

    def handle_starttag(self, tag, attributes):
        if tag in self.SKIPPED:
            self.skipping += 1
        if tag in self.BLOCKS:
            self.flush()
        if tag == "br":
            self.words.append("\n" if self.pre else " ")
        self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if tag in self.BLOCKS:
            self.flush()
        self.pre = max(0, self.pre - (tag == "pre"))
        if tag in self.SKIPPED:
            self.skipping = max(0, self.skipping - 1)

    def handle_data(self, data):
        if not self.skipping:
            self.words.append(data)


def from_html(raw):
    page = Page()
    page.feed(raw.decode("utf-8", errors="replace"))
    page.flush()
    return page.paragraphs


def from_mallard(raw):
    """A page of GNOME's help: titles, paragraphs and items, without its credits."""
    paragraphs = []

    def walk(element):
        tag = element.tag.rsplit("}", 1)[-1]
        if tag in ("info", "media"):
            return
        if tag in ("p", "title", "code", "screen"):
            text = " ".join("".join(element.itertext()).split())
            if text:
                paragraphs.append(text)
            return
        for child in element:
            walk(child)

    walk(xml.etree.ElementTree.fromstring(raw))
    return paragraphs


ESCAPES = [(r"\\f[BIRP0-9]|\\f\(..|\\s[-+]?\d", ""), (r"\\-", "-"), (r"\\&|\\\||\\/|\\,", ""), (r"\\\(aq", "'"), (r"\\\(co", "©"),
           (r"\\e", r"\\"), (r"\\ ", " "), (r"\\\(.{2}|\\\[[^]]*\]", "")]


def from_roff(raw):
    """A manual page: its running text, joined by requests that begin a paragraph."""
    paragraphs, words = [], []
    for line in gzip.decompress(raw).decode("utf-8", errors="replace").splitlines():
        for pattern, by in ESCAPES:
            line = re.sub(pattern, by, line)
        if line.startswith((".", "'")):
            request, _, rest = line[1:].partition(" ")
            if request in ("B", "I", "BR", "IR", "BI", "RB", "IB", "SM"):
                words.append(rest.replace('"', ""))
                continue
            if words:
                paragraphs.append(" ".join(words))
            words = []
            if request in ("SH", "SS"):
                paragraphs.append(rest.strip('" '))
        elif line.strip():
            words.append(line.strip())
    return paragraphs + ([" ".join(words)] if words else [])


def from_catalogue(raw):
    """A message catalogue: each message over its translation, names and single words left out."""
    messages = gettext.GNUTranslations(io.BytesIO(raw))._catalog
    paragraphs = []
    for source, translation in sorted((s, t) for s, t in messages.items() if isinstance(s, str)):
        source = source.rsplit("\x04", 1)[-1]
        if 4 <= len(source) <= 400 and source != translation:
            paragraphs.append(re.sub(r"[_&](?=\w)", "", f"{source}\n{translation}"))
    return paragraphs


READERS = {".mo": from_catalogue, ".html": from_html, ".page": from_mallard, ".gz": from_roff}


def language(text):
    """By its letters: en, ko, zh, or None where there are none."""
    hangul = len(re.findall(r"[가-힣]", text))
    han = len(re.findall(r"[一-鿿]", text))
    latin = len(re.findall(r"[A-Za-z]", text))
    # A letter of ours says as much as three Latin ones, and names of programs are Latin in every language.
    if hangul * 6 > latin and hangul >= han:
        return "ko"
    if han * 6 > latin and han:
        return "zh"
    return "en" if latin else None


def fetch(package, debs):
    found = sorted(debs.glob(f"{package}_*.deb"))
    if not found:
        subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True)
        found = sorted(debs.glob(f"{package}_*.deb"))
    return found[-1]


def main(out):
    debs = out / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    seen, rows, documents = set(), [], {"en": [], "ko": [], "zh": []}
    for package, (licence, pages) in SOURCES.items():
        deb = fetch(package, debs)
        version = subprocess.run(["dpkg-deb", "-f", deb, "Version"], check=True, capture_output=True, text=True).stdout.strip()
        tree = out / "unpacked" / package
        if not tree.exists():
            tree.mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
        for wanted, (folder, pattern) in pages.items():
            count = characters = 0
            for file in sorted((tree / folder).glob(pattern)):
                if characters >= MOST_CHARACTERS:
                    break
                if file.is_symlink() or not file.is_file():
                    continue
                try:
                    paragraphs = READERS[file.suffix](file.read_bytes())
                except (xml.etree.ElementTree.ParseError, OSError, UnicodeDecodeError):
                    print(f"{file}: left out, not a page", file=sys.stderr)
                    continue
                kept = []
                for paragraph in paragraphs:
                    mark = hashlib.blake2b(paragraph.encode(), digest_size=12).digest()
                    if mark not in seen and language(paragraph) in (wanted, None) and len(paragraph) >= LEAST_CHARACTERS / (
                        1 if wanted == "en" else 2
                    ):
                        seen.add(mark)
                        kept.append(paragraph)
                text = "\n".join(kept)
                if len(text) < LEAST_DOCUMENT / (1 if wanted == "en" else 2) or language(text) != wanted:
                    continue
                documents[wanted].append({"text": text, "source": package})
                count, characters = count + 1, characters + len(text)
            rows.append((package, version, licence, wanted, count, characters))
            print("\t".join(map(str, rows[-1])), flush=True)
    for name, lines in documents.items():
        aside = out / f"{name}.jsonl.part"
        with open(aside, "w") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        aside.rename(out / f"{name}.jsonl")
    with open(out / "sources.tsv", "w") as file:
        for row in rows:
            print(*row, sep="\t", file=file)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

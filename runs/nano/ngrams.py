"""What two texts have in common: eight tokens in a row, a token being a word, or a character of Chinese."""

import re

LENGTH = 8
TOKEN = re.compile(r"[一-鿿]|[^\W_一-鿿]+")


def tokens(text):
    return TOKEN.findall(text.lower())


def grams(text):
    words = tokens(text)
    return {tuple(words[i : i + LENGTH]) for i in range(len(words) - LENGTH + 1)}


class Seen:
    """Which n-grams of some candidates, and which whole candidates, occur in the texts that were shown to it."""

    def __init__(self, candidates):
        self.wanted = set()
        self.whole = {" ".join(tokens(text)): False for text in candidates}
        for text in candidates:
            self.wanted |= grams(text)
        self.heads = {gram[0] for gram in self.wanted}
        self.hits = set()

    def show(self, text):
        words = tokens(text)
        for i in range(len(words) - LENGTH + 1):
            if words[i] in self.heads:
                gram = tuple(words[i : i + LENGTH])
                if gram in self.wanted:
                    self.hits.add(gram)

    def show_question(self, text):
        """A question of the training set: what is equal to it has been seen too, however short."""
        self.show(text)
        whole = " ".join(tokens(text))
        if whole in self.whole:
            self.whole[whole] = True

    def unseen(self, text):
        return not self.whole[" ".join(tokens(text))] and self.hits.isdisjoint(grams(text))

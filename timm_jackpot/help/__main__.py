"""`python -m timm_jackpot.help`: writes the help files anew, after a change to any flag."""

from timm_jackpot.help import help_texts

if __name__ == "__main__":
    for path, text in help_texts().items():
        path.write_text(text, encoding="utf-8")

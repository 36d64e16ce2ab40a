"""How questions are put to a generator: templates of a user's turn, by name."""

from __future__ import annotations

from typing import Final

#: The model's own retrieval prompt (numbered paragraphs, instruction, query) instead of a template.
PARAGRAPHS: Final = "paragraphs"

#: Questions to past conversations, as LongMemEval asks them (arXiv 2410.10813): dated pieces, then the date of asking.
LONGMEMEVAL: Final = (
    "These are parts of earlier conversations between you and a user, with their dates.\n\n{{ context }}\n\n"
    "{% if date %}Today is {{ date }}.\n{% endif %}"
    "Answer the user's question from these conversations, as briefly as you can. If the answer is not in them, "
    "say that you do not know.\nQuestion: {{ query }}\nAnswer:"
)
#: Claims about a book, as CLIPPER asks of them (arXiv 2502.14854): true or false.
CLIPPER: Final = (
    "These are chapters of a book.\n\n{{ context }}\n\n"
    "Judge from these chapters alone whether the claim is true or false, and say only TRUE or FALSE.\n"
    "Claim: {{ query }}\nVerdict:"
)
#: Questions to any context.
PLAIN: Final = (
    "{{ context }}\n\nAnswer the question from the text above, as briefly as you can.\nQuestion: {{ query }}\nAnswer:"
)

STYLES: Final[dict[str, str | None]] = {
    PARAGRAPHS: None,
    "longmemeval": LONGMEMEVAL,
    "clipper": CLIPPER,
    "plain": PLAIN,
}

"""Sentences of the command line, as a visitor of the page reads them.

The page calls the functions of `fuse`, whose sentences name files by their paths and
remedies by flags. A visitor knows the names of the uploads and the labels of fields.
"""

import re
from collections.abc import Mapping
from pathlib import Path

# Flag -> the label of the page's field.
LABELS = {
    "scale": "Scale",
    "model": "Model",
    "color": "Colour",
    "ir-range": "Infrared range",
    "vis-range": "Visible range",
    "ir-palette": "Infrared palette",
    "match": "Match sizes",
    "align": "Align",
}
# What the page has no field for.
_REWORDED = (
    (r" --pages all uses all\.", " the command fuse --pages all uses all."),
    (r": give --tile \d+\b", ": make it smaller"),
    (r"( --ir-palette [\w, ]+) or a file\.", r"\1."),
    (r", or patterns of their names \(--ir-pattern, --vis-pattern\)\.", "."),
    (r", or two patterns such as --ir-pattern .*\.$", " named ir and vis."),
    (r"\b(is|are) both --ir and --vis,", "is one folder,"),
)


def public(sentence: str, names: Mapping[Path, str]) -> str:
    """Rewrites a sentence for a visitor.

    Args:
      sentence: of a function of `fuse`.
      names: what the visitor calls files and folders of this machine.
    """
    for pattern, text in _REWORDED:
        sentence = re.sub(pattern, text, sentence)
    # The path of a file begins with that of its folder.
    for path in sorted(names, key=lambda path: -len(str(path))):
        sentence = sentence.replace(str(path), names[path])
    for flag, label in LABELS.items():
        sentence = re.sub(rf"--{flag}(?![\w-])", f"“{label}”", sentence)
    return sentence

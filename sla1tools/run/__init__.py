"""A run and a batch: notebooks, products, publishing, resuming. What writes is here."""

import sys

# An optional part of what papermill and nbconvert import: without this, a grammar that nobody here uses is compiled
# each time, at the cost of a second.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

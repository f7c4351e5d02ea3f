"""A run and a batch: notebooks, products, publishing, resuming. What writes is here."""

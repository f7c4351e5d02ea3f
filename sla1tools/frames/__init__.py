"""Raw files in, counts out: which frames belong together, and what each file's verdict is."""

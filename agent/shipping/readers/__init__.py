"""Where entries come from: the journal and files."""

"""Sources of text: files and datasets, read as parts of documents."""

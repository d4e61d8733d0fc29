"""Where text comes from: files and data sets, as parts of documents."""

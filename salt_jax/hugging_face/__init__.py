"""Import of models from Hugging Face files, and export to them."""

"""Models as the files that Hugging Face's libraries read and write."""

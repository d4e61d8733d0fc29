"""Learning to answer questions: what a student is asked, and how it is scored."""

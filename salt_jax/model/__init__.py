"""The decoder language model of students, teachers and scorers."""

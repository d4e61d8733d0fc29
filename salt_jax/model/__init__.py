"""The decoder language model that students, teachers and scorers all are."""

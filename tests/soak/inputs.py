"""Damaged files of foreign formats: each reader reads them, or refuses as declared."""

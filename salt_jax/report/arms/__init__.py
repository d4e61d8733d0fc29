"""The page of a laboratory: arms against a reference, over seeds."""

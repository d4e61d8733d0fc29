"""Warnings about a run while it trains, found in its records."""

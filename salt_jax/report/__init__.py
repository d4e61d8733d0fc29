"""What SALT gained, as one page."""

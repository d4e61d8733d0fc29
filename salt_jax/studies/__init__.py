"""Studies as frozen values: several runs, and what is measured on them."""

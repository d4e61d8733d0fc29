"""HTML reports and Markdown tables that compare SALT with BASELINE."""

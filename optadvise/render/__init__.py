"""Results as text, Markdown, HTML, plots and JSON."""

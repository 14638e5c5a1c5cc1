"""Reports of finished runs: tables, figures, Markdown, LaTeX, CSV and one HTML page."""

"""HTML reports: their facts, templates and figures. Each report is one file that needs no network."""

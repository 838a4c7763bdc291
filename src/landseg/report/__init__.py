"""HTML reports: templates and figures. One file each, no network."""

"""One self-contained HTML page on a slim folder."""

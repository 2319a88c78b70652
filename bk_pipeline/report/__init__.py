"""Reports of a day, a week or a month: composed once, and shown as Markdown or as an HTML page."""

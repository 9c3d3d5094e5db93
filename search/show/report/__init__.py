"""The report of a study: a computed record, and the page that renders it."""

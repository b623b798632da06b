"""Programs for those who work on Daybook. Nothing here is needed to run it."""

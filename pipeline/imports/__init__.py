"""Other tools' labels as image rows."""
